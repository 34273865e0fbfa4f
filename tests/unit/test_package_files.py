"""What edged generates for Triton, read back with Triton's own message types, and the packages that ship with the project."""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from edged.inference.package_files import Backend, onnx_wrapper, triton_config

PACKAGES = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "model_repository").iterdir() if (path / "manifest.json").is_file()
)
MANIFEST: dict[str, Any] = {
    "max_batch_size": 8,
    "inputs": [{"name": "image", "dtype": "UINT8", "dims": [2, 640, 640]}],
    "outputs": [
        {"name": "boxes", "dtype": "FP32", "dims": [64, 4]},
        {"name": "labels", "dtype": "INT32", "dims": [64]},
    ],
}


def read_back(text: str) -> Any:
    return text_format.Parse(text, triton.ModelConfig())


def test_triton_reads_back_the_names_types_and_shapes_of_the_manifest() -> None:
    config = read_back(triton_config(MANIFEST, "die_defect__3"))
    assert (config.name, config.backend, config.max_batch_size) == ("die_defect__3", "python", 8)
    assert [(put.name, put.data_type, list(put.dims)) for put in config.input] == [("image", triton.TYPE_UINT8, [2, 640, 640])]
    assert [(put.name, put.data_type, list(put.dims)) for put in config.output] == [
        ("boxes", triton.TYPE_FP32, [64, 4]),
        ("labels", triton.TYPE_INT32, [64]),
    ]


@pytest.mark.parametrize("backend", ["python", "onnxruntime", "tensorrt"])
def test_every_backend_batches_warms_up_and_gives_up_on_a_request_that_waited_too_long(backend: Backend) -> None:
    config = read_back(triton_config(MANIFEST, "m__1", backend))
    assert config.HasField("dynamic_batching")
    policy = config.dynamic_batching.default_queue_policy
    assert policy.timeout_action == triton.ModelQueuePolicy.REJECT
    assert policy.default_timeout_microseconds > 0
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    assert all(list(warm.inputs["image"].dims) == [2, 640, 640] and warm.inputs["image"].zero_data for warm in config.model_warmup)


@pytest.mark.parametrize(
    ("backend", "file", "kind"),
    [("python", "", "KIND_CPU"), ("onnxruntime", "model.onnx", "KIND_GPU"), ("tensorrt", "model.plan", "KIND_GPU")],
)
def test_a_gpu_station_gets_the_other_backends_on_its_gpu(backend: Backend, file: str, kind: str) -> None:
    config = read_back(triton_config(MANIFEST, "m__1", backend))
    assert config.default_model_filename == file
    assert [group.kind for group in config.instance_group] == [triton.ModelInstanceGroup.Kind.Value(kind)]


def test_a_manifest_cannot_write_its_own_lines_into_the_config() -> None:
    hostile = {**MANIFEST, "inputs": [{"name": 'x" } ] backend: "shell', "dtype": "UINT8", "dims": [1]}]}
    with pytest.raises(ValueError, match="cannot be a name"):
        triton_config(hostile, "m__1")


def test_an_element_type_that_triton_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="UINT12"):
        triton_config({**MANIFEST, "inputs": [{"name": "x", "dtype": "UINT12", "dims": [1]}]}, "m__1")


def test_the_wrapper_is_python_and_defines_what_tritons_python_backend_calls() -> None:
    classes = [node for node in ast.parse(onnx_wrapper()).body if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes] == ["TritonPythonModel"]
    methods = {node.name for node in classes[0].body if isinstance(node, ast.FunctionDef)}
    assert {"initialize", "execute", "finalize"} <= methods


def test_models_ship_with_the_project() -> None:
    assert PACKAGES


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_shipped_package_holds_what_edged_would_generate(package: Path) -> None:
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    assert package.name == f"{manifest['name']}__{manifest['version']}"
    assert (package / "config.pbtxt").read_text(encoding="utf-8") == triton_config(manifest, package.name)
    assert (package / "1/model.py").read_text(encoding="utf-8") == onnx_wrapper()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_shipped_package_lists_every_file_with_its_true_sha256(package: Path) -> None:
    listed = json.loads((package / "manifest.json").read_text(encoding="utf-8"))["files"]
    generated = {"manifest.json", "config.pbtxt", "1/model.py"}
    there = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert set(listed) == there - generated
    assert listed == {name: hashlib.sha256((package / name).read_bytes()).hexdigest() for name in listed}
