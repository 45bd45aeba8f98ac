"""Trial on ComfyUI itself, which the stand-in of the other tests is compared with. Not collected by pytest.

    PYTHON_OF_COMFYUI tests/comfyui/real_comfyui.py COMFYUI_FOLDER WORK_FOLDER [--own-checkpoint]

Starts ComfyUI on the CPU in WORK_FOLDER with our pack alone, and runs everything through its HTTP API. With
--own-checkpoint, `random_checkpoints.py` must have filled WORK_FOLDER/models first. Prints a line per check;
the first that fails ends it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from server import PACK, Server
from workflows import essence, to_prompt

EXAMPLES = PACK / "example_workflows"
SNAPSHOT = Path(__file__).with_name("object_info.json")
PEOPLE = "invented_people.jpg"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def load(name: str) -> dict[str, Any]:
    return node("LoadImage", image=name)


def deidentify(image: list[Any], **more: Any) -> dict[str, Any]:
    inputs = {"model": "embedded", "method": "generate", "keep": "all", "change": "", "seed": 7, **more}
    return node("DeidDeidentifyFaces", image=image, **inputs)


def save(image: list[Any]) -> dict[str, Any]:
    return node("SaveImage", images=image, filename_prefix="trial")


def check(claim: str, holds: bool) -> None:
    print(("ok    " if holds else "WRONG ") + claim, flush=True)  # noqa: T201
    if not holds:
        raise SystemExit(1)


class Trial:
    def __init__(self, server: Server) -> None:
        self.server, self.nodes = server, server.get("/object_info")

    def pictures(self, history: dict[str, Any], place: str) -> list[np.ndarray]:
        entries = history["outputs"][place]["images"]
        folder = {"output": "output", "temp": "temp"}
        return [
            np.asarray(Image.open(self.server.base / folder[entry["type"]] / entry["filename"]).convert("RGB"))
            for entry in entries
        ]

    def records(self, history: dict[str, Any], place: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in history["outputs"][place]["text"][0].splitlines()]

    def example(self, name: str, **changes: dict[str, Any]) -> dict[str, Any]:
        prompt = to_prompt(json.loads((EXAMPLES / name).read_text()), self.nodes)
        for step in prompt.values():
            step["inputs"].update(changes.get(step["class_type"], {}))
        return prompt

    def loads(self) -> None:
        log = self.server.log()
        at = log.index("Import times for custom nodes")
        lines = [line for line in log[:at].splitlines() if "deid" in line.lower()]
        check(f"the pack loads without a line of complaint {lines}", not lines and "(IMPORT FAILED): " not in log)
        mine = {name: essence(info) for name, info in self.nodes.items() if name.startswith("Deid")}
        (self.server.base / SNAPSHOT.name).write_text(json.dumps(mine, indent=1) + "\n")
        check(f"{len(mine)} nodes, described as the stand-in does", mine == json.loads(SNAPSHOT.read_text()))
        templates = self.server.get("/api/workflow_templates")
        check(f"templates: {templates}", len(templates.get("deid-diffusion", [])) == 2)

    def first_example(self) -> None:
        before = self.server.megabytes()
        start = time.time()
        history = self.server.run(self.example("de-identify_faces.json"))
        took = time.time() - start
        result, photo = self.pictures(history, "5")[0], np.asarray(Image.open(self.server.base / "input" / PEOPLE))
        actions = [face["action"] for face in self.records(history, "6")[0]["faces"]]
        check(
            f"example 1: {actions}, {took:.1f} s, {before} -> {self.server.megabytes()} MB", actions == ["replaced"] * 3
        )
        check(
            "its picture has the photo's size and other faces",
            result.shape == photo.shape and (result != photo).mean() > 0.2,
        )
        start = time.time()
        self.server.run(self.example("de-identify_faces.json"))
        loads = self.server.log().count("Requested to load FaceDeidModel")
        check(f"a second run takes {time.time() - start:.1f} s and loads nothing ({loads} load in all)", loads == 1)

    def batches(self) -> None:
        blank = Image.new("RGB", (576, 192), (90, 120, 60))
        blank.save(self.server.base / "input" / "nobody.png")
        prompt = {
            "1": load(PEOPLE), "2": load("nobody.png"), "3": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
            "4": deidentify(["3", 0]), "5": save(["4", 0]), "6": node("PreviewAny", source=["4", 2]),
            "7": node("MaskToImage", mask=["4", 1]), "8": node("PreviewImage", images=["7", 0]),
        }  # fmt: skip
        history = self.server.run(prompt)
        pictures, records = self.pictures(history, "5"), self.records(history, "6")
        counts = [len(record["faces"]) for record in records]
        check(f"a batch of two: {counts} faces, {[record['status'] for record in records]}", counts == [3, 0])
        check("the photo without faces is the photo, bit for bit", bool((pictures[1] == np.asarray(blank)).all()))
        masks, photo = self.pictures(history, "8"), np.asarray(Image.open(self.server.base / "input" / PEOPLE))
        outside = masks[0][..., 0] == 0
        check("outside the mask nothing differs", bool((pictures[0] == photo)[outside].all()) and not masks[1].any())

    def failures(self) -> None:
        for name, value in (("change", "age=banana"), ("keep", "expresion")):
            history = self.server.run(
                {"1": load(PEOPLE), "2": deidentify(["1", 0], **{name: value}), "3": save(["2", 0])}
            )
            error = next(message for kind, message in history["status"]["messages"] if kind == "execution_error")
            check(f"{name}={value}: {error['exception_message'].strip()}", not history["outputs"])

    def interrupt(self) -> None:
        many = node("RepeatImageBatch", image=["1", 0], amount=30)
        running = self.server.queue(
            {"1": load(PEOPLE), "2": many, "3": deidentify(["2", 0], seed=8), "4": save(["3", 0])}
        )
        time.sleep(6)
        start = time.time()
        self.server.post("/interrupt", {})
        history = self.server.wait(running)
        kinds = [kind for kind, _ in history["status"]["messages"]]
        stopped = "execution_interrupted" in kinds and not history["outputs"]
        check(f"interrupted after {time.time() - start:.2f} s, nothing saved", stopped)
        after = self.server.run({"1": load(PEOPLE), "2": deidentify(["1", 0], seed=9), "3": save(["2", 0])})
        loads = self.server.log().count("Requested to load FaceDeidModel")
        check("the next run works, without loading", after["status"]["status_str"] == "success" and loads == 1)

    def stitching(self) -> None:
        """One photo's faces in another's places pass the gate; its own are covered."""
        width = 192
        with Image.open(self.server.base / "input" / PEOPLE) as people:
            for k in range(2):
                people.crop((k * width, 0, (k + 1) * width, width)).save(self.server.base / "input" / f"one{k}.png")
        prompt: dict[str, Any] = {}
        for k in range(2):
            prompt[f"load{k}"] = load(f"one{k}.png")
            prompt[f"found{k}"] = node("DeidDetectFaces", image=[f"load{k}", 0])
            faces, drawn = [f"found{k}", 0], {"control": "semantic_map", "proportions": "another person's", "seed": 1}
            prompt[f"crop{k}"] = node("DeidCropFaces", image=[f"load{k}", 0], faces=faces, size=256, **drawn)
        for k, other in ((0, 1), (1, 1)):
            name = "swapped" if k != other else "own"
            prompt[name] = node("DeidStitchFaces", crops=[f"crop{k}", 0], image=[f"crop{other}", 4])
            prompt[f"{name}_saved"] = save([name, 0])
            prompt[f"{name}_record"] = node("PreviewAny", source=[name, 2])
        history = self.server.run(prompt)
        for name, action in (("swapped", "replaced"), ("own", "covered")):
            face = self.records(history, f"{name}_record")[0]["faces"][0]
            check(
                f"stitched {name}: {face['action']}, {face['reason']}, cosine {face['similarity']}",
                face["action"] == action,
            )

    def freed(self) -> int:
        """Resident memory after /free, which is repeated: ComfyUI drops it while it cleans up after a prompt."""
        for _ in range(3):
            self.server.post("/free", {"unload_models": True, "free_memory": True})
            time.sleep(3)
        return self.server.megabytes()

    def memory(self) -> None:
        """A model of 0.9 GB is loaded and unloaded."""
        before = self.freed()
        self.server.run({"1": load(PEOPLE), "2": deidentify(["1", 0], model="wide"), "3": save(["2", 0])})
        loaded = self.server.megabytes()
        after = self.freed()
        check(
            f"memory: {before} MB, with the model {loaded}, after /free {after}",
            loaded - after > 0.8 * (loaded - before),
        )
        self.server.run({"1": load(PEOPLE), "2": deidentify(["1", 0], seed=11), "3": save(["2", 0])})
        loads = self.server.log().count("Requested to load FaceDeidModel")
        check("after it the embedded model is loaded again and works", loads == 3)

    def own_checkpoint(self) -> None:
        """Core's loaders and sampler with our crops, ControlNet and tokens, which must make a difference."""
        results = {}
        for keep in ("all", "none"):
            changes = {
                "DeidCropFaces": {"size": 256, "seed": 1}, "KSampler": {"steps": 1}, "LoadImage": {"image": "one0.png"},
                "DeidApplyAttributes": {"keep": keep},
            }  # fmt: skip
            prompt = self.example("faces_by_your_own_checkpoint.json", **changes)
            places = {step["class_type"]: place for place, step in prompt.items()}
            prompt["made"] = node("PreviewImage", images=[places["VAEDecode"], 0])
            start = time.time()
            history = self.server.run(prompt)
            if history["status"]["status_str"] != "success":
                raise SystemExit(json.dumps(history["status"]["messages"][-1])[:3000])
            results[keep] = self.pictures(history, "made")[0]
            face = self.records(history, places["PreviewAny"])[0]["faces"][0]
            saved = self.pictures(history, places["SaveImage"])
            outcome = f"{face['action']}, {face['reason']}"
            check(
                f"example 2 with random weights, {time.time() - start:.0f} s: {outcome}",
                face["action"] == "covered" and len(saved) == 1,
            )
        differing = float((results["all"] != results["none"]).mean())
        check(f"tokens reach the sampler: without them {differing:.0%} of the values differ", differing > 0.01)


def make_wide_model(folder: Path) -> None:
    """The embedded model with a UNet that paints noise and weighs 0.6 GB."""
    from deid_diffusion.pipelines.face_deid import FaceDeidPipeline
    from deid_diffusion.training.components import make_controlnet, make_unet

    pipeline = FaceDeidPipeline.from_pretrained(PACK.parent / "deid_diffusion" / "builtin", trust_remote_code=True)
    unet = make_unet((256, 512, 768), sample_size=32, cross_attention_dim=192)
    parts = {**pipeline.components, "unet": unet, "controlnet": make_controlnet(unet, 4)}
    FaceDeidPipeline(**parts, default_steps=1, default_guidance=1.0).to("cpu").save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--own-checkpoint", action="store_true")
    args = parser.parse_args()
    base = args.work.resolve()
    (base / "input").mkdir(parents=True, exist_ok=True)
    shutil.copy(EXAMPLES / PEOPLE, base / "input")
    wide = base / "models" / "deid_diffusion" / "wide"
    if not wide.exists():
        make_wide_model(wide)
    server = Server(args.comfyui.resolve(), base)
    try:
        trial = Trial(server)
        version = server.get("/system_stats")["system"]["comfyui_version"]
        print(f"ComfyUI {version}")  # noqa: T201
        trial.loads()
        trial.first_example()
        trial.batches()
        trial.failures()
        trial.interrupt()
        trial.stitching()
        trial.memory()
        if args.own_checkpoint:
            trial.own_checkpoint()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
