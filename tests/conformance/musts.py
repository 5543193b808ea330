"""What the vhost-user specification demands of a back-end, by section, and which tests hold it.

``MUSTS`` has what is served; ``ABSENT`` what is not, because the bit that would ask for it is not offered.
`test_musts` keeps both true: a test that is renamed, a request that is served without a word here, or a bit
that comes to be offered while its demands still stand under ``ABSENT``, is a failure.

Sections are the specification's; those of single requests are called by the request. The demands are in our
own words. Tests are named as from this folder, or as from tests/ with a folder.
"""

from __future__ import annotations

from dataclasses import dataclass

from vhostuser.wire.features import ProtocolFeature as P
from vhostuser.wire.features import VirtioFeature as V


@dataclass(frozen=True)
class Must:
    section: str
    demand: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Absent:
    section: str
    """A request."""
    bit: P | V | None
    """Not offered, so that the request is refused; None for requests of other devices."""


def must(section: str, demand: str, *tests: str) -> Must:
    return Must(section, demand, tests)


MUSTS = (
    # Header, communication
    must(
        "Header",
        "numbers are native-endian; a reply has version 1, the reply flag, and the request's number",
        "test_framing.py::test_reply_repeats_the_request_and_has_version_and_reply_flag_alone",
    ),
    must(
        "Header",
        "the version is 1",
        "integration/test_bad_messages.py::test_version_other_than_1_ends_the_connection",
    ),
    must(
        "Ancillary data",
        "fds belong to the message whose first byte they came with",
        "test_framing.py::test_fds_ride_on_the_first_byte_of_their_message",
        "test_framing.py::test_fds_of_messages_in_a_row_stay_with_theirs",
    ),
    must(
        "Communication",
        "requests that have a reply are answered with it, and others are not",
        "test_replies.py::test_request_with_an_own_reply_gets_that_one_and_no_ack_on_top",
        "test_replies.py::test_request_that_asks_for_no_ack_gets_none",
    ),
    must(
        "Communication",
        "protocol extensions are gated by their feature bits",
        "test_replies.py::test_request_of_a_feature_that_is_not_offered_is_nacked",
        "test_replies.py::test_request_that_cannot_be_nacked_and_broke_its_gate_ends_the_connection",
    ),
    must(
        "VHOST_USER_PROTOCOL_F_REPLY_ACK",
        "NEED_REPLY is answered with 0 or not 0",
        "test_replies.py::test_request_that_asks_for_an_ack_gets_one",
        "test_replies.py::test_refusal_is_a_nack_where_an_ack_was_asked_for",
    ),
    must(
        "VHOST_USER_PROTOCOL_F_REPLY_ACK",
        "it changes nothing before it is negotiated, nor for requests with a reply of their own",
        "test_replies.py::test_no_ack_is_sent_before_reply_ack_is_negotiated",
        "test_replies.py::test_request_with_an_own_reply_gets_that_one_and_no_ack_on_top",
    ),
    # Ring states
    must(
        "Ring states",
        "a ring begins stopped and disabled",
        "test_ring_states.py::test_ring_is_not_touched_before_set_vring_kick",
        "test_connections.py::test_new_front_end_finds_nothing_of_the_one_before",
    ),
    must(
        "Ring states",
        "a stopped ring is not processed, enabled or not, but whether it is enabled is kept",
        "test_ring_states.py::test_stopped_ring_is_not_touched_enabled_or_not",
        "test_ring_states.py::test_enabled_stays_so_over_a_stop",
    ),
    must(
        "Ring states",
        "a started ring that is disabled is processed without effect: nothing received, all sent discarded",
        "test_ring_states.py::test_disabled_transmit_ring_is_emptied_and_its_frames_thrown_away",
        "test_ring_states.py::test_disabled_receive_ring_is_not_filled",
    ),
    must(
        "Ring states",
        "a ring starts with its kick, at the latest",
        "test_ring_states.py::test_ring_starts_at_set_vring_kick_without_a_kick",
    ),
    must(
        "Ring states",
        "SET_FEATURES without bit 30 enables every ring at once",
        "test_ring_states.py::test_features_without_bit_30_enable_every_ring",
        "test_ring_states.py::test_features_with_bit_30_leave_rings_as_they_are",
    ),
    must(
        "Ring states",
        "configuration may change while rings are processed",
        "test_message_order.py::test_qemu_masks_and_unmasks_interrupts_in_traffic",
        "test_message_order.py::test_qemu_plugs_memory_in_traffic",
        "test_dirty_log.py::test_writes_are_marked_once_logging_is_on_and_not_any_more_when_it_is_off",
    ),
    must(
        "Suspended device state",
        "no guest memory is written and the guest is not notified; messages are answered",
        "test_ring_states.py::test_nothing_is_written_or_called_after_get_vring_base",
    ),
    must(
        "Multiple queue support",
        "the number of queues can be asked for, and so many are served",
        "test_negotiation.py::test_queue_num_is_enough_for_who_counts_pairs_and_who_counts_rings",
        "test_message_order.py::test_more_pairs_than_the_port_has",
        "net/test_pair_ports.py::test_of_those_that_share_a_queue_the_first_reads_it",
    ),
    # Migration
    must(
        "Migration",
        "with LOG_ALL every write to guest memory is marked, page by page, the used ring where its flag asks",
        "datapath/test_dirty_log.py::test_every_page_that_changed_is_marked_and_no_other",
        "datapath/test_dirty_log.py::test_ring_without_the_flag_has_its_frames_marked_only",
    ),
    must(
        "Migration",
        "logging starts and stops with SET_FEATURES and SET_VRING_ADDR",
        "test_dirty_log.py::test_writes_are_marked_once_logging_is_on_and_not_any_more_when_it_is_off",
        "datapath/test_dirty_log.py::test_nothing_is_marked_without_log_all",
    ),
    must(
        "Migration",
        "no update is made once the source has stopped its rings",
        "test_ring_states.py::test_nothing_is_written_or_called_after_get_vring_base",
    ),
    must(
        "Migrating back-end state",
        "saving writes all and signals its end by closing",
        "test_device_state.py::test_state_is_written_up_to_its_end_and_found_good",
    ),
    must(
        "Migrating back-end state",
        "loading reads to the end of file and goes on as the source",
        "test_device_state.py::test_state_that_was_saved_can_be_loaded",
        "test_device_state.py::test_device_on_the_other_host_goes_on_counting",
    ),
    must(
        "Migrating back-end state",
        "both devices are suspended",
        "test_device_state.py::test_transfer_is_refused_unless_all_rings_are_stopped",
    ),
    must(
        "Migrating back-end state",
        "the source can go on when the migration fails",
        "test_device_state.py::test_source_goes_on_when_the_migration_fails",
    ),
    # Requests
    must(
        "GET_FEATURES",
        "the offer, at any time and always the same, with bit 30",
        "test_negotiation.py::test_bit_30_is_offered",
        "test_negotiation.py::test_offer_does_not_change_between_connections_or_in_traffic",
        "test_replies.py::test_get_features_is_answered_while_rings_run",
    ),
    must(
        "SET_FEATURES",
        "what was offered is taken, what was not is refused",
        "test_negotiation.py::test_features_not_offered_are_refused_and_the_old_ones_stay",
    ),
    must(
        "GET_PROTOCOL_FEATURES",
        "answered before SET_FEATURES, bit 30 acknowledged or not",
        "test_negotiation.py::test_protocol_features_are_legal_before_set_features",
        "test_negotiation.py::test_protocol_features_are_legal_without_bit_30_acked",
    ),
    must(
        "SET_PROTOCOL_FEATURES",
        "taken before SET_FEATURES, and again without a reset",
        "test_negotiation.py::test_protocol_features_are_legal_before_set_features",
        "test_negotiation.py::test_protocol_features_again_reset_nothing",
        "test_negotiation.py::test_protocol_features_not_offered_are_refused_and_the_old_ones_stay",
    ),
    must("SET_OWNER", "begins a session", "test_negotiation.py::test_owner_may_be_set_twice"),
    must(
        "RESET_OWNER",
        "is ignored, or disables rings; never drops the connection's state",
        "test_negotiation.py::test_reset_owner_drops_nothing",
    ),
    must(
        "SET_MEM_TABLE",
        "replaces the table; one fd for each region in their order",
        "test_memory_tables.py::test_table_is_replaced_whole_and_the_old_one_unmapped",
        "test_memory_tables.py::test_rings_follow_memory_that_moves_to_another_file",
        "integration/test_bad_memory.py::test_fd_count_that_differs_from_the_regions_is_refused",
    ),
    must(
        "SET_LOG_BASE",
        "with LOG_SHMFD the log is where size, offset and fd say; the request is answered",
        "test_dirty_log.py::test_set_log_base_is_answered_with_what_came",
        "test_dirty_log.py::test_nothing_goes_to_the_old_log_once_the_new_one_is_answered",
        "test_replies.py::test_set_log_base_without_log_shmfd_is_answered_only_if_it_asks",
    ),
    must(
        "SET_LOG_FD",
        "brings an fd that may be used to tell of the log",
        "test_replies.py::test_request_that_asks_for_an_ack_gets_one",
        "integration/test_bad_fds.py::test_any_number_of_fds_with_any_message",
    ),
    must(
        "SET_VRING_NUM",
        "the size of a ring",
        "test_framing.py::test_ring_size_is_a_power_of_two_up_to_32768",
        "integration/test_bad_rings.py::test_refused_and_the_rings_run_on",
    ),
    must(
        "SET_VRING_ADDR",
        "user addresses of a ring, in any order with the other items",
        "test_message_order.py::test_items_in_any_order_make_a_running_device",
    ),
    must(
        "SET_VRING_BASE",
        "the next available index; the used index is read from memory",
        "test_vring_base.py::test_base_that_lies_gives_way_to_used_idx",
        "datapath/test_vring_packed.py::test_stopped_ring_goes_on_at_the_base_that_it_gave",
    ),
    must(
        "GET_VRING_BASE",
        "stops the ring and returns its index, packed rings both",
        "test_vring_base.py::test_get_vring_base_stops_the_ring_and_returns_used_idx",
        "test_vring_base.py::test_get_vring_base_in_traffic_leaves_nothing_fetched",
        "datapath/test_vring_packed.py::test_stopped_ring_goes_on_at_the_base_that_it_gave",
    ),
    must(
        "SET_VRING_KICK",
        "bits 0-7 name the ring; with bit 8 there is no fd and the ring is polled",
        "test_framing.py::test_ring_index_goes_to_255",
        "test_in_band.py::test_fd_is_preferred_over_the_message_and_bit_8_polls",
        "test_ring_states.py::test_ring_without_a_kick_fd_is_polled",
        "test_ring_states.py::test_kick_fd_may_be_replaced_without_losing_a_wake_up",
    ),
    must(
        "SET_VRING_CALL",
        "the fd is signalled when buffers are used; with bit 8 the guest polls",
        "test_ring_states.py::test_call_fd_may_be_replaced_without_losing_an_interrupt",
        "test_ring_states.py::test_ring_without_a_call_fd_keeps_moving",
    ),
    must(
        "In-band notifications",
        "negotiated without BACKEND_REQ or REPLY_ACK they end the connection",
        "test_in_band.py::test_in_band_without_what_it_needs_ends_the_connection",
    ),
    must(
        "VRING_KICK",
        "kicks the ring, and starts it; its num is 0",
        "test_in_band.py::test_vring_kick_starts_the_ring_and_kicks_it",
        "test_in_band.py::test_vring_kick_is_refused_with_a_number_or_without_the_feature",
    ),
    must(
        "VRING_CALL",
        "buffers that were used of a ring without call fd are told by message; num is 0",
        "test_in_band.py::test_used_buffers_and_errors_are_told_by_message",
    ),
    must(
        "VRING_ERR",
        "an error of a ring without err fd is told by message; num is 0",
        "test_in_band.py::test_used_buffers_and_errors_are_told_by_message",
    ),
    must(
        "SET_VRING_ERR",
        "the fd is signalled when an error occurs; with bit 8 there is none",
        "test_vring_err.py::test_each_kind_of_break_is_signalled_once",
        "test_vring_err.py::test_ring_that_lies_in_no_memory_is_signalled_when_it_is_to_start",
        "test_vring_err.py::test_err_fd_that_is_withdrawn_hears_nothing",
    ),
    must(
        "GET_QUEUE_NUM",
        "how many queues the back-end serves",
        "test_negotiation.py::test_queue_num_is_enough_for_who_counts_pairs_and_who_counts_rings",
        "test_negotiation.py::test_queue_num_of_more_than_64_pairs_is_256",
    ),
    must(
        "SET_VRING_ENABLE",
        "1 enables, 0 disables",
        "test_ring_states.py::test_ring_is_scanned_once_when_it_is_enabled",
        "test_message_order.py::test_cloud_hypervisor_pauses_and_resumes",
    ),
    must(
        "SEND_RARP",
        "a RARP with the MAC in the first six bytes is broadcast",
        "test_negotiation.py::test_rarp_takes_the_first_six_bytes_for_a_mac",
        "net/test_device.py::test_rarp_and_mtu_reach_the_port",
        "net/test_announce.py::test_rarp_frame_is_what_rfc_903_asks_for",
    ),
    must(
        "NET_SET_MTU",
        "answered with 0 for a valid MTU and not 0 otherwise",
        "test_negotiation.py::test_mtu_is_68_to_65535",
        "test_negotiation.py::test_mtu_of_no_network_is_refused",
    ),
    must(
        "SET_BACKEND_REQ_FD",
        "the socket for requests of ours; answered with 0 for success",
        "test_negotiation.py::test_backend_channel_is_kept_until_the_next_one_comes",
        "net/test_device.py::test_channel_that_is_refused_leaves_the_old_one",
    ),
    must(
        "IOTLB_MSG",
        "it is answered with a u64 in any case, 0 for what was done",
        "test_iotlb.py::test_iotlb_msg_is_always_answered_with_a_u64",
        "integration/test_bad_iommu.py::test_update_that_cannot_be_is_refused_and_the_rings_run_on",
    ),
    must(
        "IOTLB_MSG",
        "a miss goes out on the back-end channel, and the main connection is served meanwhile",
        "test_iotlb.py::test_a_miss_says_address_and_access_and_nothing_else",
        "test_iotlb.py::test_the_channel_is_not_waited_for",
        "test_iotlb.py::test_get_vring_base_does_not_wait_for_a_miss",
    ),
    must(
        "IOTLB_MSG",
        "what was invalidated is not touched once that is answered",
        "test_iotlb.py::test_ring_is_not_touched_after_an_invalidation_is_answered",
        "integration/test_iommu.py::test_invalidations_and_moves_in_traffic",
    ),
    must(
        "IOTLB_MSG",
        "rings and buffers are at I/O addresses while the feature is acknowledged",
        "integration/test_iommu.py::test_frames_come_back_whole",
    ),
    must(
        "SET_VRING_ENDIAN",
        "0 is little-endian, 1 big-endian, others are invalid; both are handled, per ring, before it starts",
        "test_cross_endian.py::test_big_endian_guest_is_served",
        "test_cross_endian.py::test_other_values_are_invalid",
        "test_cross_endian.py::test_started_ring_keeps_its_order",
    ),
    must(
        "GET_CONFIG",
        "the answer has the size of the request, or none for an error",
        "test_config_space.py::test_answer_has_the_size_of_the_request",
        "test_replies.py::test_get_config_beyond_the_space_is_answered_with_size_0",
    ),
    must(
        "SET_CONFIG",
        "the flags are checked; read-only fields are not set",
        "test_config_space.py::test_flags_are_checked",
        "test_config_space.py::test_read_only_fields_are_not_set",
    ),
    must(
        "GET_INFLIGHT_FD",
        "the answer is the layout in full, with an fd of a new region of the negotiated format",
        "session/test_inflight_requests.py::test_get_is_answered_with_the_layout_and_an_fd_in_the_form_received",
        "memory/test_inflight.py::test_part_is_head_and_entries_rounded_up_to_64",
        "test_inflight.py::test_region_has_a_part_for_each_ring_of_the_negotiated_format",
    ),
    must(
        "GET_INFLIGHT_FD",
        "the region says how far each ring is, and what is in flight",
        "datapath/test_inflight.py::test_says_after_each_turn_how_far_the_ring_is_and_that_nothing_is_in_flight",
        "test_inflight.py::test_version_is_1_and_the_entries_are_counted_once_rings_run",
        "test_inflight.py::test_stopped_ring_has_nothing_in_flight_and_its_position_in_the_region",
    ),
    must(
        "SET_INFLIGHT_FD",
        "what another life left in flight is served again, in its order and once",
        "datapath/test_inflight.py::test_chains_of_another_life_are_served_first_in_its_order_and_once",
        "datapath/test_inflight.py::test_chains_of_another_life_are_served_first_from_their_copies",
        "test_inflight.py::test_lost_back_end_is_followed_by_one_that_goes_on_with_the_region",
        "integration/test_restart.py::test_killed_in_traffic_and_no_chain_is_lost_or_given_back_twice",
    ),
    must(
        "SET_INFLIGHT_FD",
        "an update that was cut short is carried out where the ring shows it, and else taken back",
        "datapath/test_inflight.py::test_batch_that_was_published_is_not_served_again",
        "datapath/test_inflight.py::test_update_that_was_published_is_carried_out",
        "datapath/test_inflight.py::test_update_that_was_not_published_is_taken_back",
    ),
    must(
        "RESET_DEVICE",
        "rings are disabled and the device is as at first; the connection stays",
        "test_negotiation.py::test_reset_device_stops_and_disables_every_ring_and_keeps_memory",
        "test_negotiation.py::test_reset_device_forgets_ring_sizes_and_addresses",
        "test_device_status.py::test_reset_device_clears_the_status",
    ),
    must(
        "GET_MAX_MEM_SLOTS",
        "how many slots there are, and so many are served",
        "test_memory_slots.py::test_number_of_slots_is_answered_with_and_without_need_reply",
        "test_memory_slots.py::test_as_many_regions_as_there_are_slots_can_be_added_and_no_more",
    ),
    must(
        "ADD_MEM_REG",
        "the region is mapped, from exactly one fd",
        "test_memory_slots.py::test_region_is_used_as_soon_as_it_is_added_and_rings_do_not_notice",
        "integration/test_bad_fds.py::test_any_number_of_fds_with_any_message",
    ),
    must(
        "REM_MEM_REG",
        "the region is known by its two addresses and its size, and unmapped; an fd that comes is closed",
        "test_memory_slots.py::test_region_is_known_by_its_addresses_and_size_not_by_its_offset",
        "test_memory_slots.py::test_removal_may_bring_an_fd_which_is_closed",
        "test_memory_slots.py::test_other_regions_come_and_go_under_traffic_on_a_thread",
    ),
    must(
        "SET_STATUS",
        "the device status of virtio; 0 is a reset",
        "test_device_status.py::test_status_0_stops_every_ring_and_forgets_nothing_else",
        "test_device_status.py::test_status_has_8_bits",
    ),
    must(
        "GET_STATUS",
        "what was set, FEATURES_OK only when features were accepted",
        "test_device_status.py::test_status_is_0_at_first_and_then_what_was_set",
        "test_device_status.py::test_features_ok_is_seen_only_when_features_were_accepted",
    ),
    must(
        "SET_DEVICE_STATE_FD",
        "bits 0-7 say whether it failed, bit 8 that no fd comes back; never an error and an fd",
        "test_device_state.py::test_answer_to_a_transfer_is_exactly_0x100_with_no_fd",
        "test_device_state.py::test_unknown_direction_and_phase_are_refused",
    ),
    must(
        "CHECK_DEVICE_STATE",
        "answered once it is known whether the transfer and its processing succeeded: 0 or not 0",
        "test_device_state.py::test_check_is_answered_when_the_result_is_known",
        "test_device_state.py::test_check_without_a_transfer_is_an_error",
        "test_device_state.py::test_state_of_an_unknown_newer_version_is_refused",
    ),
    must(
        "GET_VRING_BASE_SKIP_DRAIN",
        "the ring stops and its base is returned, without waiting for what is in flight",
        "session/test_ring_requests.py::test_is_as_get_vring_base",
        "session/test_ring_requests.py::test_needs_all_three_features",
        "test_vring_base.py::test_get_vring_base_skip_drain_is_as_get_vring_base",
        "test_vring_base.py::test_get_vring_base_skip_drain_without_its_feature_ends_the_connection",
    ),
    # Postcopy
    must(
        "POSTCOPY_ADVISE",
        "answered with a userfaultfd in the ancillary data",
        "integration/test_postcopy.py::test_pages_come_when_they_are_touched",
        "integration/test_bad_postcopy.py::test_postcopy_without_a_userfaultfd_is_answered_without_one",
    ),
    must(
        "POSTCOPY_LISTEN",
        "comes after the advice and before the memory, which is registered with the userfaultfd",
        "integration/test_bad_postcopy.py::test_listen_without_advice_is_refused",
        "integration/test_bad_postcopy.py::test_listen_after_the_memory_is_refused",
    ),
    must(
        "SET_MEM_TABLE",
        "in postcopy answered with where each region is mapped, and registered once that is acknowledged",
        "integration/test_postcopy.py::test_table_is_replaced_in_postcopy",
        "integration/test_bad_postcopy.py::test_request_in_place_of_the_acknowledgement_is_refused",
    ),
    must(
        "POSTCOPY_END",
        "always answered; the userfaultfd is closed",
        "integration/test_postcopy.py::test_after_the_end_nothing_is_asked_for_any_more",
    ),
    # Programs
    must(
        "Backend program conventions",
        "the program does not daemonize itself and ends at SIGTERM",
        "server/test_server.py::test_sigterm_ends_the_process_within_a_second_with_a_guest_connected",
    ),
    must(
        "Backend program conventions",
        "--print-capabilities, --socket-path and --fd do what they are to do",
        "cli/test_program.py::test_capabilities_whatever_else_is_on_the_line",
        "test_connections.py::test_inherited_listening_socket_is_accepted_from_and_left_in_place",
    ),
)

ABSENT = (
    Absent("CREATE_CRYPTO_SESSION", P.CRYPTO_SESSION),
    Absent("CLOSE_CRYPTO_SESSION", P.CRYPTO_SESSION),
    Absent("GPU_SET_SOCKET", None),
    Absent("GET_SHARED_OBJECT", P.SHARED_OBJECT),
    Absent("GET_SHMEM_CONFIG", P.SHMEM),
)
