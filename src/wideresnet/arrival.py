"""A package of others → a function of ours, called once that package has been imported; at once if it has been already.

So `import wideresnet` makes its networks known to timm without importing timm, whichever comes first. Until then a
finder of ours stands before Python's own; it finds nothing itself, and goes when it has been used.
"""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast


def call_when_imported(package: str, ours: str) -> None:
    """`ours` is "module:function", imported only then. What it raises is a warning: no import of `package` fails by
    us."""
    if sys.modules.get(package) is not None:
        _call(package, ours)
    else:
        sys.meta_path.insert(0, _Finder(package, ours))


def _call(package: str, ours: str) -> None:
    module, _, function = ours.partition(":")
    try:
        getattr(importlib.import_module(module), function)()
    except Exception as error:  # of any kind: another version of the package may lack anything
        reason = " ".join(str(error).split()) or type(error).__name__
        with contextlib.suppress(Warning):  # raised, under -W error
            warnings.warn(f"{package} does not know what {module.partition('.')[0]} has: {reason}", stacklevel=3)


# Neither class has a base of importlib.abc's, which would cost `wrn --help` 16 ms.
class _Finder:
    def __init__(self, package: str, ours: str) -> None:
        self.package, self.ours = package, ours

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the finders behind this one find, with a loader that tells us; None for every other package."""
        if fullname != self.package or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:  # those before have been asked
            find = getattr(finder, "find_spec", None)  # Python passes over those of old that have none
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = cast(Any, _Loader(spec.loader, self))
                return spec
        return None

    def arrived(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            _call(self.package, self.ours)


class _Loader:
    """The package's own loader, which also tells `finder` when the package has been run to its end."""

    def __init__(self, own: Any, finder: _Finder) -> None:
        self.own, self.finder = own, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own  # whoever looks from here on sees the package as it is without us
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        self.own.exec_module(module)
        self.finder.arrived()

    def __getattr__(self, name: str) -> Any:
        if name == "own":  # asked for before it is set, by a copy
            raise AttributeError(name)
        return getattr(self.own, name)
