"""设备状态：重启之后接着用。"""

from __future__ import annotations

from pathlib import Path

from meeting_push.client.ledger import DeviceState, StateFile, load_device_state


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "new" / "state.json")
    state = DeviceState(device_id="d", user_id=1, epoch="e", floor=7, applied_ids=["a"])
    file.save(state)
    assert file.load() == state


def test_saving_leaves_only_the_file(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save(DeviceState(device_id="a"))
    file.save(DeviceState(device_id="b"))
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b'{"device_id": "a", "floor": ')
    assert StateFile(path).load() is None


def test_the_generated_device_id_differs_each_time() -> None:
    assert load_device_state(None, None).device_id != load_device_state(None, None).device_id


def test_another_device_id_does_not_inherit_the_position(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save(DeviceState(device_id="a", epoch="e", floor=7))
    assert load_device_state(file, "b") == DeviceState(device_id="b")
