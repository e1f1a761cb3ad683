"""The launch pages name settings and flags that exist."""

import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted((ROOT / "docs").glob("launch_*.md"))


def setting(config: ConfigDict, name: str) -> bool:
    for part in name.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_flags_and_files_of_a_page_exist(page):
    text = page.read_text()
    config = importlib.import_module("configs.stage2").get_config("1_3b")
    named = set(re.findall(r"--config\.([a-z_.]+)", text)) | set(
        re.findall(r"`((?:mesh|training|data)\.[a-z_.]+)`", text)
    )
    assert len(named) > 5
    assert not [name for name in sorted(named) if not setting(config, name)]
    for file, argument in re.findall(r"--config=(configs/\w+\.py):?(\w*)", text):
        module = file.removesuffix(".py").replace("/", ".")
        importlib.import_module(module).get_config(argument)
    flags = (ROOT / "train.py").read_text()
    for flag in ("multihost", "workdir", "coordinator", "processes", "process"):
        assert f'"{flag}"' in flags
        assert f"--{flag}" in text or flag in ("coordinator", "processes", "process")
    for script in re.findall(r"python ((?:tools/)?\w+\.py)", text):
        assert (ROOT / script).is_file()
