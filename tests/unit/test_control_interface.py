"""The interface text and the table say the same, and the text is what an independent client needs."""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import varlink
from varlink.scanner import Interface

from arcbackupd import errors
from arcbackupd.control import INTERFACE
from arcbackupd.control.interface import ERRORS, METHODS, SERVICE_INTERFACE, BackupsService, description, error_name
from tests.unit.control_service import (
    RESTORE,
    SmallService,
    alarm_row,
    alarm_test,
    backup_row,
    drill,
    finding_row,
    inspection_row,
    job_row,
    refusal,
    replaced_row,
    restore_plan,
    restore_report,
    serving,
    status_reply,
)


@pytest.fixture(scope="module")
def interface() -> Any:
    """The text, as PyPI's varlink parses it."""
    text = description(INTERFACE)
    assert text is not None
    return Interface(text)


def members(interface: Any, kind: str) -> dict[str, Any]:
    return {name: member for name, member in interface.members.items() if type(member).__name__ == kind}


def varlink_type(annotation: Any) -> str:
    """Return the Varlink type that a parameter's annotation stands for."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [part for part in get_args(annotation) if part is not type(None)]
        assert len(inner) == 1
        return "?" + varlink_type(inner[0])
    if get_origin(annotation) is Annotated:
        return varlink_type(get_args(annotation)[0])
    return {bool: "bool", str: "string", int: "int"}[annotation]


def described_type(found: Any) -> str:
    """Return the same for what the parser found."""
    if type(found).__name__ == "_Maybe":
        return "?" + described_type(found.element_type)
    return {bool: "bool", str: "string", int: "int"}[type(found)]


def test_the_text_and_the_table_have_the_same_methods(interface: Any) -> None:
    assert interface.name == INTERFACE
    assert members(interface, "_Method").keys() == METHODS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_the_same_parameters_in_the_text_and_in_the_table(interface: Any, name: str) -> None:
    in_text = {key: described_type(kind) for key, kind in interface.members[name].in_type.fields.items()}
    fields = METHODS[name].parameters.model_fields
    assert in_text == {key: varlink_type(field.annotation) for key, field in fields.items()}
    assert all(field.is_required() == (in_text[key][0] != "?") for key, field in fields.items())


@pytest.mark.parametrize("name", METHODS)
def test_the_text_says_of_a_method_who_may_call_it_and_whether_it_streams(interface: Any, name: str) -> None:
    method, doc = METHODS[name], interface.members[name].doc
    assert {"READ": "[read]", "OPERATE": "[backup]", "ADMIN": "[admin]"}[method.access.name] in doc
    assert method.streams == ("treams" in doc)
    assert method.streams == ("event" in interface.members[name].out_type.fields)


def test_the_text_and_the_table_have_the_same_errors_with_the_same_parts(interface: Any) -> None:
    in_text = members(interface, "_Error")
    assert in_text.keys() == {kind.__name__ for kind in ERRORS}
    for error in in_text.values():
        assert list(error.type.fields) == list(errors.Busy("c", "m", hint="h").as_dict())


def test_every_error_that_reaches_an_operator_travels_but_that_nobody_answers() -> None:
    assert set(errors.KINDS) - set(ERRORS) == {errors.DaemonUnreachable}
    assert error_name(errors.DaemonUnreachable("c", "m")) == f"{INTERFACE}.OperationFailed"


def test_every_row_names_a_handler_that_the_service_protocol_has_and_none_is_left_over() -> None:
    handlers = {name for name, _ in inspect.getmembers(BackupsService, inspect.isfunction) if name[0] != "_"}
    assert handlers == {method.handler for method in METHODS.values()}


def test_every_custom_type_in_the_text_is_defined_in_it(interface: Any) -> None:
    def custom(found: Any) -> set[str]:
        if type(found).__name__ == "_CustomType":
            return {found.name}
        inner = (
            [found.element_type] if hasattr(found, "element_type") else list(getattr(found, "fields", {}).values())
        )
        return set().union(*map(custom, inner))

    used: set[str] = set()
    for member in interface.members.values():
        for part in ("type", "in_type", "out_type"):
            used |= custom(getattr(member, part, None))
    assert used == members(interface, "_Alias").keys()


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("BackupRow", backup_row()),
        ("Inspection", inspection_row()),
        ("Job", job_row()),
        ("Drill", drill()),
        ("RestorePlan", restore_plan()),
        ("Refusal", refusal()),
        ("RestoreReport", restore_report()),
        ("Replaced", replaced_row()),
        ("Operation", RESTORE),
        ("Alarm", alarm_row()),
        ("AlarmTest", alarm_test()),
        ("Limits", status_reply()["limits"]),
        ("Room", status_reply()["room"]),
        ("Finding", finding_row()),
    ],
)
def test_the_examples_that_the_client_is_tested_with_are_what_the_text_says(
    interface: Any, name: str, example: dict[str, Any]
) -> None:
    assert list(interface.members[name].type.fields) == list(example)


def test_the_status_that_the_client_is_tested_with_is_what_the_text_says(interface: Any) -> None:
    assert list(interface.members["Status"].out_type.fields) == list(status_reply())


def test_an_independent_client_reads_the_interface_from_the_socket(tmp_path: Path) -> None:
    with serving(tmp_path / "s"), varlink.Client.new_with_address(f"unix:{tmp_path}/s") as client:
        assert client.get_interfaces() is not None
        with client.open(SERVICE_INTERFACE) as connection:
            info = connection.GetInfo()
            text = connection.GetInterfaceDescription(SERVICE_INTERFACE)["description"]
            assert connection.GetInterfaceDescription(INTERFACE)["description"] == description(INTERFACE)
    assert info["interfaces"] == [SERVICE_INTERFACE, INTERFACE]
    assert info["product"] == "arcbackupd"
    assert set(members(Interface(text), "_Method")) == {"GetInfo", "GetInterfaceDescription"}


def test_an_independent_client_calls_and_streams(tmp_path: Path) -> None:
    service = SmallService()
    with (
        serving(tmp_path / "s", service),
        varlink.Client.new_with_address(f"unix:{tmp_path}/s") as client,
        client.open(INTERFACE) as connection,
    ):
        assert [row["name"] for row in connection.List()["backups"]] == [row["name"] for row in service.rows]
        replies = list(connection.Backup(_more=True))
        assert connection.Backup()["result"] == service.result
        assert connection.Inspect("1")["backup"]["sql_length"] == 9_999_999
    assert [reply["event"]["type"] for reply in replies[:-1]] == ["step", "progress", "notice", "step"]
    assert replies[-1] == {"result": service.result}


def test_an_independent_client_gets_errors_by_their_names(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s"),
        varlink.Client.new_with_address(f"unix:{tmp_path}/s") as client,
        client.open(INTERFACE) as connection,
    ):
        with pytest.raises(varlink.VarlinkError) as raised:
            connection.Inspect("nothing")
        with pytest.raises(varlink.InvalidParameter) as invalid:
            connection._call("Inspect")
    assert raised.value.error() == f"{INTERFACE}.NoSuchBackup"
    assert json.loads(json.dumps(raised.value.parameters())).keys() == {"code", "message", "hint"}
    assert invalid.value.parameters() == {"parameter": "reference"}


def test_no_two_members_of_the_text_share_a_name() -> None:
    text = description(INTERFACE) or ""
    names = [
        line.split()[1].partition("(")[0] for line in text.splitlines() if line[:5] in ("type ", "metho", "error")
    ]
    assert len(names) == len(set(names))
