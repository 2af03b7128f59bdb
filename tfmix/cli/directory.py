"""What `tfmix quantize` leaves in its output directory, and the other commands find there.

quantize.json      settings, how far it came, figures
search.jsonl       journal of the search
policy.json        the bits (tfmix.QuantizationPolicy)
sensitivity.json   the sensitivities they were computed from, where there are any
calibration/       state of --post-training full
finetune/          checkpoint of the training
float.keras        the float model, as tf_keras has it
model.keras        the fake-quant model; any tf_keras loads it after `import tfmix`
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfmix.errors import FormatError, TfmixError

if TYPE_CHECKING:
    from tfmix.policy.policy import QuantizationPolicy
    from tfmix.policy.sensitivity import SensitivityTable

FORMAT = "tfmix.quantize"
VERSION = 1
#: How far a run came; each holds all before it.
STAGES = ("begun", "searched", "calibrated", "done")


class Directory:
    """The files of one run of `tfmix quantize`."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.state = self.path / "quantize.json"
        self.journal = self.path / "search.jsonl"
        self.policy_file = self.path / "policy.json"
        self.table_file = self.path / "sensitivity.json"
        self.calibration = self.path / "calibration"
        self.finetune = self.path / "finetune"
        self.float_model = self.path / "float.keras"
        self.model = self.path / "model.keras"

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Directory | None:
        """The directory at `path`, None where `tfmix quantize` has left nothing."""
        directory = cls(path)
        return directory if directory.state.is_file() else None

    # -- state ----------------------------------------------------------------------------------

    def begin(self, settings: Mapping[str, Any], restart: bool) -> str:
        """The stage that a run of these settings goes on from.

        restart: removes the state of any run before. TfmixError where that of another one is
        there, naming what differs, or files of these names that no run wrote.
        """
        if not self.state.is_file():
            others = [path.name for path in self._files() if path.exists()]
            if others:
                raise TfmixError(
                    f"{self.path} holds {', '.join(others)}, which tfmix quantize did not write; "
                    "use another directory"
                )
        elif restart:
            self._clear()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TfmixError(f"cannot make {self.path}: {error.strerror}") from error
        if not self.state.is_file() or (
            self.read()["stage"] == STAGES[0] and not self.journal.is_file()
        ):
            self.advance(STAGES[0], settings=dict(settings))
            return STAGES[0]
        before = self.read()["settings"]
        settings = json.loads(json.dumps(settings))  # as it would have been read
        differing = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        if differing:
            what = "; ".join(f"{k} {before.get(k)}, not {settings.get(k)}" for k in differing)
            raise TfmixError(
                f"{self.path} holds a run of other settings: {what}. Use another directory, or "
                "--restart to begin anew"
            )
        return self.read()["stage"]

    def advance(self, stage: str, **facts: Any) -> None:
        """Notes that a stage is reached, with facts that later commands want."""
        document = self.read() if self.state.is_file() else {"format": FORMAT, "version": VERSION}
        document |= {"stage": stage, **facts}
        write_text(self.state, json.dumps(document, indent=1) + "\n")

    def read(self) -> dict[str, Any]:
        """FormatError where the state is not ours."""
        try:
            document = json.loads(self.state.read_text())
            if document["format"] == FORMAT and document["version"] == VERSION:
                return document
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{self.state}: not the state of tfmix quantize: {error}") from error
        raise FormatError(f"{self.state}: not the state of tfmix quantize, version {VERSION}")

    def _files(self) -> list[Path]:
        return [path for path in vars(self).values() if path != self.path]

    def _clear(self) -> None:
        for path in self._files():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # -- values ---------------------------------------------------------------------------------

    def write_policy(self, policy: QuantizationPolicy, table: SensitivityTable | None) -> None:
        write_text(self.policy_file, policy.to_json() + "\n")
        if table is not None:
            write_text(self.table_file, table.to_json() + "\n")

    def policy(self) -> QuantizationPolicy:
        return read_policy(self.policy_file)

    def table(self) -> SensitivityTable | None:
        from tfmix.policy.sensitivity import SensitivityTable

        if not self.table_file.is_file():
            return None
        return SensitivityTable.from_json(self.table_file.read_text())

    def budget(self) -> Any:
        """The Budget of the run, or None."""
        from tfmix.budget import Budget

        settings = self.read()["settings"]["budget"]
        return None if settings is None else Budget(**settings)

    def save(self, model: Any, path: Path) -> None:
        """A tf_keras model, whole or not at all."""
        temporary = path.with_name(f".new.{path.name}")
        try:
            model.save(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise TfmixError(f"cannot write {path}: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all. TfmixError where it cannot be written."""
    from tfmix.export.files import write_all

    write_all(path.parent, {path.name: text.encode()})


def read_policy(path: str | os.PathLike[str]) -> QuantizationPolicy:
    """FormatError where the file is no policy."""
    from tfmix.policy.policy import QuantizationPolicy

    try:
        return QuantizationPolicy.from_json(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error
    except TfmixError as error:
        raise FormatError(f"{path}: {error}") from error


def digest_of(path: str | os.PathLike[str]) -> str:
    """Of a file's content, or of all files in a directory: equal for equal ones."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(str(file.relative_to(path)).encode())
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Models:
    """What a path stands for. Float and fake-quant: tf_keras models; None where there is none."""

    float_model: Any = None
    qmodel: Any = None
    integer: Any = None
    directory: Directory | None = None


def load_models(path: str | os.PathLike[str]) -> Models:
    """The models at `path`: an output directory, a `.tflite` file, or any model that tfmix takes.

    UnsupportedModelError, FormatError: as `tfmix.quantize_model` and `tfmix.load`.
    """
    import tfmix
    from tfmix.fakequant.apply import is_quantized
    from tfmix.frontend.loading import as_tf_keras

    directory = Directory.at(path)
    if directory is not None:
        if not directory.model.is_file():
            raise TfmixError(f"{path}: tfmix quantize has not come to a model yet; run it again")
        return Models(
            as_tf_keras(directory.float_model), as_tf_keras(directory.model), directory=directory
        )
    if Path(path).suffix == ".tflite":
        return Models(integer=tfmix.load(path))
    model = as_tf_keras(path)
    return Models(qmodel=model) if is_quantized(model) else Models(float_model=model)
