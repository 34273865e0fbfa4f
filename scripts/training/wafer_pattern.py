"""Trains and measures `wafer_pattern`, the classifier of WM-811K wafer maps."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from classification_metrics import classification_report
from package import export_onnx, open_session, seal, write_golden
from progress import Progress
from result_lines import classification_line
from wafer_fit import EPOCH_MAPS, SEED, check_network, fit_network
from wafer_maps import labelled_files, load_training_maps, split_by_block
from wafer_net import ServedNet
from wafer_package import card_text, expect_scores, golden_maps, manifest_of, parameter_count, scores_of

# on the own split: 1 view 0.919, 2 views 0.925, 4 views 0.923 macro-F1; each view costs a full pass (1.5 ms on one core)
VIEWS = 2
THREADS = 1


def train(data: Path, out: Path, minutes: float | None = None) -> dict[str, Any]:
    """Trains on DIR/train.npz and writes the package to `out`; returns the reports on the own split and, where there is one, on DIR/images.

    `minutes` bounds the training loop by wall clock: the learning rate then falls with the time that is spent. Without it
    the run is as long as the shipped model's and repeatable. FileNotFoundError if train.npz is missing.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    maps = load_training_maps(data / "train.npz")
    fit_rows, check_rows = split_by_block(maps)
    check = maps.pick(check_rows)
    began = time.process_time()
    net, epochs = fit_network(maps.pick(fit_rows), check, minutes)
    cpu_minutes = (time.process_time() - began) / 60
    own = check_network(net, check, VIEWS)
    manifest = manifest_of(maps.classes)
    export_onnx(ServedNet(net, VIEWS), manifest, out / manifest["model"])
    facts = {
        "seed": SEED,
        "epochs": epochs,
        "epoch_maps": EPOCH_MAPS,
        "fit_maps": len(fit_rows),
        "cpu_minutes": f"{cpu_minutes:.0f}",
        "minutes": "" if minutes is None else f" --minutes {minutes:g}",
        "parameters": f"{parameter_count(net.state_dict()):,}",
        "size_mb": f"{(out / manifest['model']).stat().st_size / 1e6:.2f}",
        "views": VIEWS,
        "torch": torch.__version__,
    }
    seal(out, manifest, card_text(manifest, facts, own, None))
    images = None
    if (data / "labels.csv").is_file():
        write_golden(out, manifest, golden_maps(out, data, manifest), data / "LICENSE.txt", partial(expect_scores, manifest=manifest))
        images = evaluate(out, data)
        seal(out, manifest, card_text(manifest, facts, own, images))
    return {"own_split": own, "images": images, "epochs": epochs, "cpu_minutes": round(cpu_minutes, 1)}


def evaluate(model: Path, data: Path, write: Path | None = None) -> dict[str, Any]:
    """Runs the package at `model` over DIR/images by DIR/labels.csv with onnxruntime; returns model, version and the figures.

    `write` gets one line per image as `edged infer --json` prints it.
    """
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    session = open_session(model / manifest["model"], THREADS)
    classes: list[str] = manifest["classes"]
    rows = list(labelled_files(data))
    truth, predicted, lines = [], [], []
    bar = Progress("evaluate wafer_pattern", len(rows))
    for done, (file, name) in enumerate(rows, 1):
        scores = scores_of(session, file, manifest)
        truth.append(classes.index(name))
        predicted.append(classes.index(max(scores, key=lambda key: scores[key])))
        lines.append(classification_line(file, manifest, scores))
        bar.show(done)
    bar.end(f"{len(rows)} images")
    if write is not None:
        write.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return {"model": manifest["name"], "version": manifest["version"], **classification_report(truth, predicted, classes)}
