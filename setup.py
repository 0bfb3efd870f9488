"""What wheels and source archives hold beside modules: notebooks, tables, results, the commit.

Everything else about the package stands in pyproject.toml.
"""

import importlib.util
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("installation", ROOT / "aba_core/installation.py")
installation = importlib.util.module_from_spec(spec)  # by its path: aba_core itself needs torch
spec.loader.exec_module(installation)


class WithParts(build_py):
    """The modules, and the parts of the checkout in `installation.IN_WHEEL`."""

    def run(self):
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # files of an earlier build
        super().run()
        folder = Path(self.build_lib) / installation.IN_WHEEL
        hidden = shutil.ignore_patterns(".*")
        for part in installation.PARTS:
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, target, ignore=hidden)
            else:
                shutil.copyfile(ROOT / part, target)
        (folder / installation.STAMP).write_text(installation.commit() + "\n", encoding="utf-8")


class WithStamp(sdist):
    """The archive also says which commit it is of."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        stamp = Path(base_dir) / installation.STAMP
        stamp.unlink(missing_ok=True)  # may be a link to the one of an unpacked archive
        stamp.write_text(installation.commit() + "\n", encoding="utf-8")


setup(cmdclass={"build_py": WithParts, "sdist": WithStamp})
