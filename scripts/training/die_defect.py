"""Trains and measures `die_defect`, the detector of defects on die images, alone or against a golden reference.

`--data generated` means made-up dies (edged/simulate): that is the shipped model. A folder with pairs.csv, labels.csv and images/
(the layout of DeepPCB's pairs) trains the same network on those pairs and their classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from detection_metrics import Found, best_threshold, detection_report
from die_fit import SEED, STEPS, fit
from die_net import DieNet, ServedDetector, save_weights
from die_package import LICENCE_FILE, SIDE_PX, Clock, add_golden, card_text, find, manifest_of, truth_of
from die_samples import CLASSES, BoardPairs, GeneratedDies, Sample, Source, held_out_dies, read_pairs, tuning_dies
from package import export_onnx, open_session, seal
from progress import Progress
from result_lines import FLOOR, detection_line

GENERATED = "generated"
SHIPPED = (
    Path(__file__).resolve().parents[2] / "model_repository/die_defect__1/weights.npz"
)  # every training begins there; take it away to start anew
CHECK_SHARE = 20  # one pair in so many is kept out of training for the report
CLEAR_OF_CUT = 0.08
CUT = 0.5  # the served scores are shifted so that this is where F is best


def train(data: Path, out: Path, minutes: float | None = None) -> dict[str, Any]:
    """Trains on `data` and writes the package to `out`; returns the report on images it did not train on.

    `minutes` bounds the training loop by wall clock: the learning rate then falls with the time that is spent. It runs on
    EDGED_TRAIN_THREADS threads (default 1; another one draws the images). ValueError or FileNotFoundError say what is wrong with `data`.
    """
    torch.set_num_threads(int(os.environ.get("EDGED_TRAIN_THREADS", "1")))
    cv2.setNumThreads(1)
    made_up = is_generated(data)
    source, tuning, check = _generated_sets() if made_up else _pair_sets(data)
    began = time.process_time()
    net, steps = fit(source, STEPS, minutes, SHIPPED if SHIPPED.is_file() else None)
    cpu_minutes = (time.process_time() - began) / 60
    # Of images it was trained on a network is surer than of others: there the lower thresholds are the ones that hold.
    at = 0.5 if made_up else 1 / 3
    threshold = best_threshold(_answers(net, tuning), [truth_of(s) for s in tuning], 0.33, at)
    manifest = manifest_of(source.classes)
    export_onnx(ServedDetector(net, threshold, SIDE_PX), manifest, out / manifest["model"])
    save_weights(net, source.classes, out / SHIPPED.name)
    session = open_session(out / manifest["model"])
    reports = {title: measure(session, samples, source.classes) for title, samples in check.items()}
    with tempfile.TemporaryDirectory() as scratch:
        add_golden(out, manifest, _golden(data, session), LICENCE_FILE if made_up else _licence(data), Path(scratch))
    facts = {
        "seed": SEED, "steps": steps, "cpu_minutes": f"{cpu_minutes:.0f}", "data": GENERATED if made_up else "DIR",
        "minutes": "" if minutes is None else f" --minutes {minutes:g}", "torch": torch.__version__, "threshold": f"{threshold:.2f}",
        "classes": ", ".join(source.classes), "parameters": f"{sum(p.numel() for p in net.parameters()):,}",
        "size_mb": f"{(out / manifest['model']).stat().st_size / 1e6:.1f}",
    }  # fmt: skip
    template = Path(__file__).with_name("die_defect_card.md" if made_up else "die_pairs_card.md")
    seal(out, manifest, card_text(template, facts, reports))
    return {"checked": reports, "raw_threshold": round(threshold, 3), "steps": steps, "cpu_minutes": round(cpu_minutes, 1)}


def evaluate(model: Path, data: Path, write: Path | None = None) -> dict[str, Any]:
    """Runs the package at `model` over `data` with onnxruntime on one thread; returns model, version and the figures in percent.

    For `generated`: 200 made-up dies with their references, and the same dies without under "without_reference". `write` gets one
    line per image as `edged infer --json` prints it. ValueError where the classes of data and model differ.
    """
    cv2.setNumThreads(1)
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    session = open_session(model / manifest["model"])
    samples, classes = (held_out_dies(), list(CLASSES)) if is_generated(data) else read_pairs(data)
    if unknown := set(classes) - set(manifest["classes"]):
        raise ValueError(f"{data} has classes that the model at {model} does not know: {', '.join(sorted(unknown))}")
    renamed = np.array([manifest["classes"].index(name) for name in classes], dtype=np.int64)
    samples = [Sample(s.pair, s.boxes, renamed[s.labels], s.name) for s in samples]
    lines: list[str] = []
    report = measure(session, samples, manifest["classes"], lines, manifest)
    if write is not None:
        write.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if is_generated(data):
        report["without_reference"] = measure(session, [_alone(s) for s in samples], manifest["classes"])
    return {"model": manifest["name"], "version": manifest["version"], **report}


def is_generated(data: Path) -> bool:
    """Whether `data` stands for made-up dies; ValueError if it is neither that nor a folder of pairs."""
    if data.name == GENERATED and not (data / "pairs.csv").is_file():
        return True
    if not (data / "pairs.csv").is_file() or not (data / "labels.csv").is_file():
        raise ValueError(f"{data} holds no pairs.csv and labels.csv; give a folder of pairs, or the word `{GENERATED}` for made-up dies")
    return False


def measure(
    session: onnxruntime.InferenceSession,
    samples: Sequence[Sample],
    classes: Sequence[str],
    lines: list[str] | None = None,
    manifest: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The report on `samples`; a line for each goes to `lines`."""
    clock, found, bar = Clock(), list[Found](), Progress("evaluate die_defect", len(samples))
    for done, sample in enumerate(samples, 1):
        found.append(find(session, sample.pair, clock))
        if lines is not None and manifest is not None:
            kept = found[-1].at_least(FLOOR)
            rows = zip(kept.labels, kept.scores, kept.boxes, strict=True)
            boxes = [(classes[int(k)], float(score), box.tolist()) for k, score, box in rows]
            lines.append(detection_line(sample.name, sample.pair[0], manifest, boxes))
        bar.show(done)
    bar.end(f"{len(samples)} images")
    report = detection_report(found, [truth_of(s) for s in samples], classes, CUT)
    return {**report, "images_per_s": round(clock.images / max(clock.seconds, 1e-9), 1)}


def _answers(net: DieNet, samples: Sequence[Sample]) -> list[Found]:
    """What the trained network finds, with raw scores."""
    served, answers = ServedDetector(net, 0.5, SIDE_PX).eval(), []
    with torch.no_grad():
        for sample in samples:
            boxes, scores, labels = served(torch.from_numpy(sample.pair[None]))
            answers.append(Found(boxes[0].numpy(), scores[0].numpy(), labels[0].numpy()))
    return answers


Sets = tuple[Source, list[Sample], dict[str, list[Sample]]]


def _generated_sets() -> Sets:
    """Training source, images to choose the threshold on, and titled sets to report on."""
    check = held_out_dies()
    return GeneratedDies(SEED), tuning_dies(), {"with reference": check, "without": [_alone(s) for s in check]}


def _pair_sets(data: Path) -> Sets:
    """All pairs but one in CHECK_SHARE are trained on; the threshold is chosen on training pairs, the report is on the others."""
    pairs, classes = read_pairs(data)
    if any(s.pair.shape != (2, SIDE_PX, SIDE_PX) for s in pairs):
        raise ValueError(f"{data} holds images that are not {SIDE_PX} x {SIDE_PX} px")
    ordered = sorted(pairs, key=lambda s: hashlib.sha256(s.name.encode()).digest())
    check = len(ordered) // CHECK_SHARE
    if not check:
        raise ValueError(f"{data} holds {len(ordered)} pairs; training needs at least {CHECK_SHARE}")
    return BoardPairs(ordered[check:], classes, SEED), ordered[check:], {"pairs not trained on": ordered[:check]}


def _golden(data: Path, session: onnxruntime.InferenceSession) -> list[Sample]:
    """Three made-up dies with references and a clean one, two without references; or three real pairs.

    Only images where no score is so near the cut that another processor's rounding could add or drop a defect.
    """
    if not is_generated(data):
        return [s for s in read_pairs(data)[0] if _decided(session, s)][:3]
    dies = held_out_dies(40)
    defective = [s for s in dies if len(s.labels) >= 2 and _decided(session, s)][:3]
    clean = [s for s in dies if not len(s.labels) and _decided(session, s)][:1]
    others = [_alone(s) for s in dies if len(s.labels) >= 2 and not any(s is taken for taken in defective)]
    return [*defective, *clean, *[s for s in others if _decided(session, s)][:2]]


def _licence(data: Path) -> Path:
    own = data / "LICENSE.txt"
    return own if own.is_file() else Path(__file__).with_name("die_pairs_licence.txt")


def _decided(session: onnxruntime.InferenceSession, sample: Sample) -> bool:
    return not np.any(abs(find(session, sample.pair).scores - CUT) < CLEAR_OF_CUT)


def _alone(sample: Sample) -> Sample:
    return Sample(np.stack([sample.pair[0], np.zeros_like(sample.pair[0])]), sample.boxes, sample.labels, sample.name)
