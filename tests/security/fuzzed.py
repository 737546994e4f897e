"""The modules that read data from a device, and the fuzzers of each.

A module that reads data from a device and is missing here fails tests/security/test_fuzz.py. Write a
fuzzer for its parser (any bytes in; a noun, None or a HarnessError out, in bounded time) and name it
here.
"""

from __future__ import annotations

FUZZERS: dict[str, tuple[str, ...]] = {
    "harness/devices/dialects/python_agent/answers.py": (
        "agents/test_agent_dialect.py::test_a_launch_with_anything_in_it_is_read_or_refused",
        "agents/test_agent_dialect.py::test_facts_with_anything_in_them_are_read_or_refused",
        "agents/test_agent_dialect.py::test_outputs_with_anything_in_them_are_read_or_refused",
    ),
    "harness/devices/dialects/python_agent/bootstrap.py": (
        "security/test_fuzz.py::test_the_first_answer",
    ),
    "harness/devices/framing.py": (
        "agents/test_agent_dialect.py::test_any_bytes_give_objects_or_our_errors",
        "agents/test_agent_dialect.py::test_any_json_is_an_object_or_a_value_error",
    ),
    "harness/devices/dialects/python_agent/dialect.py": (
        "security/test_fuzz.py::test_a_conversation",
    ),
    "harness/farm/android/checks.py": (
        "devices/test_phone_farm.py::test_whatever_a_program_that_may_not_run_prints_is_shown_plainly",
    ),
    "harness/devices/dialects/benchmark_model/dialect.py": (
        "unit/test_runner_dialect.py::test_a_phone_that_answers_anything_gives_facts_or_our_errors",
    ),
    "harness/devices/dialects/benchmark_model/restoring.py": (
        "unit/test_runner_dialect.py::test_a_phone_that_answers_anything_gives_facts_or_our_errors",
    ),
    "harness/farm/bundles.py": (
        "unit/test_runner_dialect.py::test_a_phone_that_answers_anything_gets_a_bundle_or_our_errors",
    ),
    "harness/devices/dialects/benchmark_model/tool_output.py": (
        "unit/test_runner_output.py::test_any_log_is_read_or_refused_with_its_line",
        "unit/test_runner_output.py::test_a_log_that_is_cut_has_no_other_numbers",
    ),
    "harness/devices/dialects/benchmark_model/endings.py": (
        "unit/test_runner_output.py::test_any_log_is_read_or_refused_with_its_line",
    ),
    "harness/devices/dialects/benchmark_model/result_file.py": (
        "unit/test_runner_output.py::test_any_result_file_is_read_or_refused",
    ),
    "harness/devices/dialects/benchmark_model/wire.py": (
        "unit/test_runner_output.py::test_any_bytes_are_a_message_or_refused",
    ),
    "harness/devices/dialects/benchmark_model/runtime_info.py": (
        "unit/test_runner_placement.py::test_any_bytes_are_a_placement_or_refused",
    ),
    "harness/devices/dialects/benchmark_model/elf.py": (
        "unit/test_runner_bundle.py::test_any_bytes_are_an_elf_file_or_refused",
    ),
    "harness/devices/dialects/benchmark_model/bundle.py": (
        "unit/test_runner_bundle.py::test_any_manifest_is_read_or_none",
        "unit/test_runner_bundle.py::test_any_json_is_a_manifest_or_none",
    ),
    "harness/devices/dialects/benchmark_model/scripts.py": (
        "unit/test_runner_sensors.py::test_whatever_a_script_prints_is_read_or_refused",
    ),
    "harness/devices/dialects/benchmark_model/facts.py": (
        "unit/test_runner_sensors.py::test_whatever_a_script_prints_is_read_or_refused",
    ),
    "harness/devices/dialects/benchmark_model/sensors.py": (
        "unit/test_runner_sensors.py::test_whatever_a_script_prints_is_read_or_refused",
    ),
    "harness/devices/android.py": (
        "unit/test_runner_sensors.py::test_whatever_a_service_prints_is_a_state",
    ),
    "harness/farm/busy.py": (
        "unit/test_farm_busy.py::test_any_bytes_are_an_answer_or_none",
        "unit/test_farm_busy.py::test_any_listing_gives_user_ids",
    ),
    "harness/farm/checks_agent.py": (
        "unit/test_farm_survey.py::test_any_bytes_give_absolute_paths_of_pythons",
    ),
    "harness/farm/linux/survey.py": (
        "unit/test_farm_survey.py::test_any_bytes_are_a_system_or_none",
    ),
    "harness/farm/cleaning.py": ("security/test_fuzz.py::test_what_cleaning_says",),
    "harness/farm/contact.py": ("security/test_fuzz.py::test_facts_make_a_profile",),
    "harness/farm/probe.py": ("unit/test_farm_probe.py::test_any_bytes_are_refused",),
    "harness/farm/setup.py": ("security/test_fuzz.py::test_what_unpacking_says",),
    "harness/farm/vulkan.py": ("unit/test_farm_vulkan.py::test_any_bytes_are_a_driver_or_none",),
    "harness/analysis/layers/tool.py": ("security/test_fuzz.py::test_a_tool_says_anything",),
    "harness/analysis/layers/tool_log.py": (
        "unit/test_layers_tool_log.py::test_a_damaged_log_gives_fewer_but_never_other_numbers",
        "security/test_fuzz.py::test_a_long_line_takes_no_time",
    ),
    "harness/measure/pinning.py": ("security/test_fuzz.py::test_what_the_pinning_shell_says",),
    "harness/measure/thermal.py": ("security/test_fuzz.py::test_temperatures",),
    "harness/tflite/flatbuffer.py": (
        "unit/test_optimize_flatbuffer.py::test_no_mutation_raises_anything_else",
        "unit/test_optimize_flatbuffer.py::test_random_bytes_after_the_identifier_are_refused_or_read",
    ),
    "harness/tflite/payload/codecs.py": (
        "unit/test_payload_codecs.py::test_any_bytes_are_unpacked_or_refused",
        "unit/test_payload_huffman.py::test_any_side_is_read_or_refused",
        "unit/test_payload_delta.py::test_any_bytes_are_refused",
    ),
    "harness/decoding.py": (
        "unit/test_decoding.py::test_a_damaged_record_is_noticed_as_pydantic_notices_it",
        "unit/test_decoding.py::test_a_wrong_file_is_refused_as_pydantic_refuses_it",
    ),
    "harness/records/store/text.py": ("security/test_fuzz.py::test_a_journal_of_anything",),
    "harness/records/store/codec.py": (
        "unit/test_store.py::test_garbled_journals_never_hide_the_good_lines_before",
        "security/test_fuzz.py::test_a_journal_of_anything",
    ),
    "harness/devices/by_shell/lease.py": (
        "devices/test_by_shell.py::test_any_bytes_are_a_lease_or_our_error",
    ),
    "harness/devices/by_shell/android.py": (
        "devices/test_phone_farm.py::test_any_bytes_are_a_phone_or_none",
        "devices/test_phone_farm.py::test_lines_in_any_order_give_only_temperatures_that_can_be",
    ),
    "harness/devices/by_shell/files.py": (
        "devices/test_by_shell.py::test_any_listing_names_only_digests_that_were_asked_for",
    ),
    "harness/devices/transports/adb/listing.py": (
        "unit/test_adb.py::test_any_list_is_phones_or_nothing",
    ),
    "harness/devices/transports/adb/shell.py": (
        "unit/test_adb.py::test_any_bytes_from_the_shell_are_output_or_our_error",
    ),
    "harness/devices/transports/adb/transport.py": (
        "unit/test_adb.py::test_whatever_a_command_on_a_file_prints_is_our_error",
    ),
    "harness/devices/transports/adb/files.py": (
        "unit/test_adb.py::test_any_bytes_from_the_file_service_are_a_file_or_our_error",
    ),
    "harness/devices/transports/space.py": ("security/test_fuzz.py::test_what_df_says",),
    "harness/devices/transports/ssh/channel.py": ("security/test_fuzz.py::test_the_marked_line",),
    "harness/devices/transports/ssh/certificates.py": (
        "devices/test_ssh_config.py::test_any_certificate_is_read_or_refused",
    ),
    "harness/devices/transports/ssh/command_files.py": (
        "security/test_fuzz.py::test_what_a_device_says_of_a_file",
    ),
    "harness/devices/transports/ssh/known_hosts.py": (
        "devices/test_ssh_config.py::test_any_file_can_be_read",
    ),
    "agents/python_tflite/agent.py": ("security/test_fuzz.py::test_requests_of_any_shape",),
    "agents/python_tflite/lease.py": ("security/test_fuzz.py::test_a_lease_of_any_bytes",),
    "agents/python_tflite/sysfs.py": (
        "agents/test_agent_sysfs.py::test_odd_text_is_no_number_and_no_crash",
        "agents/test_agent_sysfs.py::test_whatever_a_sensor_says_the_answer_can_be_sent",
    ),
    "agents/python_tflite/wire.py": ("security/test_fuzz.py::test_a_request_of_any_bytes",),
}
"""By module: fuzz tests, as FILE::TEST under tests/."""

NOT_A_DEVICE: dict[str, str] = {
    "harness/devices/transports/streams.py": "passes bytes on and reads none",
    "harness/devices/transports/ssh/keys.py": "ssh-keygen of this machine",
    "harness/devices/transports/ssh/settings.py": "ssh -G of this machine",
    "harness/analysis/search/answers.py": "reads trials of ours",
    "harness/analysis/bisect/commits.py": "git of this machine",
    "harness/farm/wheels.py": "pip of this machine",
    "harness/devices/transports/local.py": "carries bytes, reads none",
}
"""Modules that seem to read data from a device, and what they read instead."""
