"""`make notebooks`: leaves out, by name, the notebook whose tools are not installed."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import support  # noqa: E402

missing = [name for name in support.FIRMWARE_TOOLS if shutil.which(name) is None]
collect_ignore = ["4_firmware.ipynb"] if missing else []


def pytest_report_header() -> str | None:
    return f"4_firmware.ipynb skipped: no {', '.join(missing)}" if missing else None
