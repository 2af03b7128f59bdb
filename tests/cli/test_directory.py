"""The state of a run in its directory, and whose files are touched."""

import pytest

from tfmix.cli.directory import STAGES, Directory, digest_of, read_policy
from tfmix.errors import FormatError, TfmixError

SETTINGS = {"seed": 0, "budget": {"flash": 1000}}


@pytest.fixture
def directory(tmp_path):
    found = Directory(tmp_path / "a" / "b")
    assert found.begin(SETTINGS, restart=False) == STAGES[0]
    return found


def test_a_run_goes_on_from_the_stage_it_reached(directory):
    directory.journal.write_text("")
    for stage in STAGES[1:]:
        directory.advance(stage, figure=1)
        assert directory.begin(SETTINGS, restart=False) == stage
    assert directory.read()["figure"] == 1
    with pytest.raises(TfmixError, match="other settings: seed 0, not 1; epochs None, not 2"):
        directory.begin({**SETTINGS, "seed": 1, "epochs": 2}, restart=False)


def test_before_the_search_settings_may_change(directory):
    assert directory.begin({"seed": 1}, restart=False) == STAGES[0]
    assert directory.read()["settings"] == {"seed": 1}


def test_restart_removes_what_a_run_left_and_nothing_else(directory):
    directory.advance("searched")
    directory.policy_file.write_text("")
    directory.finetune.mkdir()
    (directory.path / "notes.txt").write_text("mine")
    assert directory.begin({"seed": 1}, restart=True) == STAGES[0]
    assert sorted(path.name for path in directory.path.iterdir()) == ["notes.txt", "quantize.json"]


@pytest.mark.parametrize("restart", [False, True])
def test_files_of_others_are_left_alone(tmp_path, restart):
    (tmp_path / "model.keras").write_text("mine")
    with pytest.raises(TfmixError, match="holds model.keras, which tfmix quantize did not write"):
        Directory(tmp_path).begin(SETTINGS, restart)
    assert (tmp_path / "model.keras").read_text() == "mine"


def test_a_state_that_is_damaged(directory):
    directory.state.write_text("{")
    with pytest.raises(FormatError, match="not the state of tfmix quantize"):
        directory.begin(SETTINGS, restart=False)
    directory.state.write_text('{"format": "tfmix.quantize", "version": 9}')
    with pytest.raises(FormatError, match="not the state of tfmix quantize, version 1"):
        directory.read()
    assert Directory.at(directory.path / "other") is None


def test_a_policy_that_cannot_be_read(tmp_path):
    with pytest.raises(FormatError, match="p.json: cannot be read"):
        read_policy(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(FormatError, match="p.json: not a policy"):
        read_policy(tmp_path / "p.json")


def test_a_digest_is_of_names_and_content(tmp_path):
    (tmp_path / "a").write_text("1")
    file, folder = digest_of(tmp_path / "a"), digest_of(tmp_path)
    assert digest_of(tmp_path / "a") == file
    (tmp_path / "a").write_text("2")
    assert digest_of(tmp_path / "a") != file and digest_of(tmp_path) != folder
