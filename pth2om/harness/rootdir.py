"""Which folder is pytest's root, when a path follows one of our options as a word of its own.

pytest looks for its root and its configuration before it has loaded any plugin. It does not know our options then, and
takes ``/data`` of ``--om-data-dir /data`` for a place of tests. Once our options are known the question is asked again,
with pytest's own functions; where these are not what they were, the other spelling is asked for.
"""

from __future__ import annotations

import copy
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from pth2om.language import say

_PREFIX = "--om-"
_SHORT = ("--baseline",)
"""Options without the prefix that take a path."""


def correct(config: Any, args: list[str]) -> None:  # noqa: ANN401 - private members of pytest.Config
    """Look for the root and the configuration again where one of our options may have misled pytest.

    Args:
        config: being made; its plugins are loaded, its conftests are not.
        args: the words that pytest is going to read; replaced where the configuration adds other ones.

    Raises:
        UsageError: this pytest cannot be asked again; the sentence names the spelling that works everywhere.
    """
    apart = [word for word in args if word in _SHORT or (word.startswith(_PREFIX) and "=" not in word)]
    if not apart:
        return
    try:
        _correct(config, args)
    except (AttributeError, ImportError, KeyError, TypeError) as error:
        option = apart[0]
        raise pytest.UsageError(say("plugin.write-equals", option=option, reason=str(error)).render()) from None


def _correct(config: Any, args: list[str]) -> None:  # noqa: ANN401 - as above
    from _pytest.config.findpaths import determine_setup

    known = config.known_args_namespace
    root, ini, values, ignored = determine_setup(
        inifile=known.inifilename,
        override_ini=known.override_ini,
        args=known.file_or_dir,
        rootdir_cmd_arg=known.rootdir or None,
        invocation_dir=config.invocation_params.dir,
    )
    if (root, ini) == (config.rootpath, config.inipath):
        return
    config._rootpath, config._inipath, config._inicfg, config._ignored_config_files = root, ini, values, ignored
    config._inicache.clear()
    config._parser.extra_info.update(rootdir=str(root), inifile=str(ini))
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, config.invocation_params.args)]
    args[:] = [*config.getini("addopts"), *words]
    config._configure_python_path()
    config.pluginmanager.consider_preparse(args, exclude_only=False)
    config.known_args_namespace = config._parser.parse_known_args(args, namespace=copy.copy(config.option))
    if config.known_args_namespace.confcutdir is None:
        config.known_args_namespace.confcutdir = str(Path(ini).parent if ini is not None else root)
