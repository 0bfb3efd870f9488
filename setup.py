"""What wheels and source archives hold beside modules: notebooks, tables, results, the commit, and
in wheels the files in C compiled, where there is a compiler (ABA_BUILD_KERNELS=off: not).

Everything else about the package stands in pyproject.toml.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent


def loaded(path):
    """A module by its path: aba_core itself needs torch."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


installation = loaded(ROOT / "aba_core/installation.py")
compiling = loaded(ROOT / "aba_core/kernels/compiling.py")


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
        if with_kernels():
            compiling.build(Path(self.build_lib) / "aba_core" / "kernels" / "prebuilt")


def with_kernels():
    """Whether libraries are to be compiled, and can be."""
    try:
        compiling.compiler()
    except compiling.NoKernels:
        return False
    return os.environ.get("ABA_BUILD_KERNELS") != "off"


class WithLibraries(Distribution):
    """What setuptools asks to know whether a wheel is for one system."""

    def has_ext_modules(self):
        return with_kernels()


class ForProcessors(bdist_wheel):
    """With libraries inside a wheel is for one system, but for any Python: they know none."""

    def get_tag(self):
        python, abi, system = super().get_tag()
        return (python, abi, system) if self.root_is_pure else ("py3", "none", system)


class WithStamp(sdist):
    """The archive also says which commit it is of."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        stamp = Path(base_dir) / installation.STAMP
        stamp.unlink(missing_ok=True)  # may be a link to the one of an unpacked archive
        stamp.write_text(installation.commit() + "\n", encoding="utf-8")


setup(
    distclass=WithLibraries,
    cmdclass={"build_py": WithParts, "bdist_wheel": ForProcessors, "sdist": WithStamp},
)
