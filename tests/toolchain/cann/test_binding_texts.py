"""A text that ``acl`` left belongs to the call that failed, also where an earlier failure was no error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pth2om.toolchain.cann.agent.acl_device import AclError, Buffer, Device


class Texts:
    """A module ``acl`` that keeps the last text until it is read, as the vendor's does."""

    def __init__(self, **codes: list[int]) -> None:
        self.codes = codes
        self.text: str | None = None
        self.called: list[str] = []
        device = {name: self.call(name) for name in ("set_device", "reset_device", "free", "destroy_context")}
        made = {name: self.call(name, 7) for name in ("create_context", "malloc")}
        self.rt = SimpleNamespace(**device, **made, get_mem_info=self.call("get_mem_info", 5, 9))
        self.mdl = SimpleNamespace(add_dataset_buffer=self.call("add_dataset_buffer", 1))
        self.init, self.finalize = self.call("init"), self.call("finalize")
        self.destroy_data_buffer, self.create_data_buffer = self.call("destroy_data_buffer"), lambda *_: 3

    def call(self, name: str, *values: int) -> Any:
        def made(*_: object) -> Any:
            self.called.append(name)
            code = self.codes.get(name, []).pop(0) if self.codes.get(name) else 0
            if code and code != 100:  # 100: a failure without a text
                self.text = f"text of {name}"
            return (*values, code) if values else code

        return made

    def get_recent_err_msg(self) -> str | None:
        text, self.text = self.text, None
        return text


@pytest.mark.parametrize(
    "tolerated",
    [{"init": [100002]}, {"malloc": [207001]}, {"get_mem_info": [507000]}],
    ids=["init", "malloc", "info"],
)
def test_a_failure_that_is_no_error_leaves_no_text(tolerated: dict[str, list[int]]) -> None:
    acl = Texts(**tolerated, add_dataset_buffer=[100])
    device = Device(acl)
    device.memory()
    with pytest.raises(AclError) as caught:
        Buffer(device, 1, 16)
    assert (caught.value.call, caught.value.code, caught.value.text) == ("acl.mdl.add_dataset_buffer", 100, "")


def test_memory_is_freed_although_its_description_could_not_be() -> None:
    acl = Texts(destroy_data_buffer=[100000])
    buffer = Buffer(Device(acl), 1, 16)
    with pytest.raises(AclError, match="destroy_data_buffer"):
        buffer.free()
    assert acl.called[-1] == "free"
