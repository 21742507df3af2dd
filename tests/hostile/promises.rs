//! The promises of plyfs, clause by clause, and the tests of which at least one would fail if it were broken.

use std::fmt::Write as _;

/// A clause of a promise.
pub struct Promise {
    pub promise: &'static str,
    pub clause: &'static str,
    /// File and name.
    pub by: &'static [(&'static str, &'static str)],
}

const fn promise(promise: &'static str, clause: &'static str, by: &'static [(&'static str, &'static str)]) -> Promise {
    Promise { promise, clause, by }
}

const HERE: &str = crate::table::HERE;
const NEVER_WRITTEN: &str = "1. Lower layers are never written";
const KEPT: &str = "2. Acknowledged is kept";
const BEFORE_OR_AFTER: &str = "3. Before or after, never between";
const DELETED: &str = "4. Deleted stays deleted";
const NO_LEAK: &str = "5. Nothing leaks";
const LIVES: &str = "6. The daemon lives";
const NO_DOOR: &str = "7. The mount is no door";

pub const PROMISES: [Promise; 35] = [
    promise(
        NEVER_WRITTEN,
        "not a byte, not an extended attribute",
        &[
            (
                "tests/kill/main.rs",
                "a_kill_of_the_daemon_leaves_each_change_before_or_after_and_loses_nothing_acknowledged",
            ),
            ("tests/formats/main.rs", "hostile_and_broken_layers_get_the_documented_answer"),
            ("tests/regressions/removal.rs", "a_removed_lower_name_is_a_whiteout_and_the_layer_is_untouched"),
            ("tests/differential.rs", "histories_agree_with_the_kernel"),
        ],
    ),
    promise(
        NEVER_WRITTEN,
        "not by passthrough, not beside a reader",
        &[
            ("tests/regressions/headline.rs", "bug_1_a_write_beside_a_reader_reaches_the_lower_layer"),
            ("tests/data_path.rs", "who_opened_the_lower_file_sees_what_is_written_later"),
        ],
    ),
    promise(
        NEVER_WRITTEN,
        "not by a store into a mapping",
        &[("tests/regressions/open_files.rs", "a_store_into_a_mapping_reaches_the_upper_layer_only")],
    ),
    promise(
        NEVER_WRITTEN,
        "not by a symlink in an upper layer, not by O_TRUNC before the copy-up",
        &[(HERE, "a_symlink_of_the_upper_layer_is_no_way_into_a_lower_one")],
    ),
    promise(
        NEVER_WRITTEN,
        "not its times of access",
        &[("tests/regressions/copy_up.rs", "reading_does_not_change_the_lower_layer")],
    ),
    promise(
        KEPT,
        "what fsync, fdatasync and O_SYNC acknowledged, with the names that lead to it: kill -9 of the daemon",
        &[
            (
                "tests/kill/main.rs",
                "a_kill_of_the_daemon_leaves_each_change_before_or_after_and_loses_nothing_acknowledged",
            ),
            ("tests/programs/sqlite.rs", "sqlite_with_a_write_ahead_log_survives_kills"),
            ("tests/programs/mapped.rs", "a_database_of_mapped_pages_survives_kills"),
            ("tests/crash/ends.rs", "an_end_at_any_call_leaves_before_or_after_to_plyfs"),
            ("tests/blocks/crash.rs", "an_end_at_any_call_keeps_what_was_acknowledged"),
        ],
    ),
    promise(
        KEPT,
        "the same when the machine ends",
        &[
            ("tests/power/main.rs", "every_crash_state_of_ext4_is_a_state_of_the_history"),
            ("tests/power/main.rs", "every_crash_state_of_xfs_is_a_state_of_the_history"),
            ("tests/power/mounted.rs", "every_crash_state_under_a_mount_is_a_state_of_the_history"),
            ("tests/cli/options.rs", "what_is_synced_follows_the_option"),
            ("tests/blocks/crash.rs", "what_was_cut_off_stays_so_when_the_machine_ends"),
        ],
    ),
    promise(
        KEPT,
        "without fsync each operation is there whole or not at all",
        &[
            (
                "tests/kill/main.rs",
                "a_kill_of_the_daemon_leaves_each_change_before_or_after_and_loses_nothing_acknowledged",
            ),
            ("tests/crash/ends.rs", "an_end_at_any_call_leaves_before_or_after_to_plyfs"),
        ],
    ),
    promise(
        KEPT,
        "an error of a sync is told",
        &[
            ("tests/power/syncs.rs", "a_sync_that_fails_is_not_taken_for_done"),
            ("tests/regressions/open_files.rs", "a_full_upper_says_so_and_loses_nothing"),
        ],
    ),
    promise(
        BEFORE_OR_AFTER,
        "for every operation and every instant, as plyfs shows it after a remount",
        &[
            (
                "tests/kill/main.rs",
                "a_kill_of_the_daemon_leaves_each_change_before_or_after_and_loses_nothing_acknowledged",
            ),
            ("tests/crash/ends.rs", "an_end_at_any_call_leaves_before_or_after_to_plyfs"),
            ("tests/crash/errors.rs", "an_error_of_any_call_leaves_what_the_answer_says"),
        ],
    ),
    promise(
        BEFORE_OR_AFTER,
        "as the kernel's OverlayFS shows it",
        &[
            ("tests/crash/ends.rs", "an_end_at_any_call_leaves_before_or_after_to_the_kernel"),
            ("tests/interop/histories.rs", "plyfs_as_root_first_then_the_kernel"),
        ],
    ),
    promise(
        BEFORE_OR_AFTER,
        "after an error, too",
        &[
            ("tests/blocks/crash.rs", "an_error_of_any_call_is_told_and_leaves_a_file_that_works"),
            ("tests/engine.rs", "a_failing_whiteout_leaves_the_name_and_nothing_else"),
        ],
    ),
    promise(
        DELETED,
        "by rmdir and mkdir",
        &[
            ("tests/regressions/headline.rs", "bug_2_a_directory_made_again_brings_deleted_files_back"),
            ("tests/regressions/removal.rs", "trees_removed_and_made_again_have_only_what_is_new"),
        ],
    ),
    promise(
        DELETED,
        "by rename",
        &[
            ("tests/regressions/removal.rs", "a_name_renamed_over_a_whiteout_and_removed_stays_removed"),
            ("tests/interop/directories.rs", "a_new_directory_moved_over_a_hidden_one"),
        ],
    ),
    promise(
        DELETED,
        "over remounts and kills",
        &[
            (
                "tests/kill/main.rs",
                "a_kill_of_the_daemon_leaves_each_change_before_or_after_and_loses_nothing_acknowledged",
            ),
            ("tests/differential.rs", "histories_agree_with_a_model"),
            ("tests/crash/ends.rs", "an_end_at_any_call_leaves_before_or_after_to_plyfs"),
        ],
    ),
    promise(
        DELETED,
        "hard links among them",
        &[
            ("tests/interop/files.rs", "hard_links_removed_one_by_one"),
            ("tests/differential.rs", "histories_with_hard_links_in_lowers_agree_with_a_model"),
        ],
    ),
    promise(
        NO_LEAK,
        "no temporary file in the view",
        &[
            ("tests/regressions/removal.rs", "every_name_that_is_listed_exists"),
            ("tests/crash/ends.rs", "an_end_at_any_call_leaves_before_or_after_to_plyfs"),
        ],
    ),
    promise(
        NO_LEAK,
        "no leftover of an earlier run in a file",
        &[
            ("tests/regressions/headline.rs", "bug_3_a_stale_file_in_workdir_ends_up_in_a_users_file"),
            ("tests/formats/marks.rs", "leftovers in the workdir"),
            (HERE, "a_workdir_with_odd_things_in_it_is_cleaned_or_refused"),
        ],
    ),
    promise(
        NO_LEAK,
        "no descriptor",
        &[
            (HERE, "nothing_stays_open_and_nothing_stays_in_workdir"),
            ("tests/cli/daemon.rs", "nothing_of_the_callers_stays_open_or_locked"),
            ("tests/blocks/main.rs", "descriptors_that_run_out_are_taken_from_files_that_nobody_uses"),
        ],
    ),
    promise(
        NO_LEAK,
        "no memory after FORGET",
        &[
            ("tests/load/memory.rs", "a_walk_is_forgotten_and_its_memory_given_back"),
            ("tests/memory.rs", "an_inode_costs_little_and_nothing_once_it_is_forgotten"),
        ],
    ),
    promise(
        LIVES,
        "no request ends it",
        &[
            ("tests/panics.rs", "a_bug_costs_one_request_and_is_logged_once_with_its_backtrace"),
            ("tests/crash/panics.rs", "a_panic_at_any_call_costs_that_request_only"),
            ("tests/supervise.rs", "programs_under_kills_get_no_wrong_answer"),
            ("tests/traps/errors.rs", "times_at_the_ends_of_the_range_do_not_end_the_daemon"),
            ("tests/traps/errors.rs", "nothing_is_answered_with_enosys"),
            ("tests/stress.rs", "eight_threads_then_a_remount"),
        ],
    ),
    promise(
        LIVES,
        "no layer and no attribute ends it",
        &[
            ("tests/fuzz.rs", "every_target_is_run_and_is_a_binary_of_cargo_fuzz"),
            ("tests/formats/main.rs", "hostile_and_broken_layers_get_the_documented_answer"),
            (HERE, "a_directory_swapped_for_a_symlink_leads_nowhere"),
            (HERE, "attributes_of_64_kib_are_copied_whole"),
        ],
    ),
    promise(
        LIVES,
        "a node of a layer never holds it up",
        &[
            (HERE, "nodes_of_a_lower_layer_are_handled_and_never_opened"),
            (HERE, "a_fifo_without_a_writer_holds_up_its_reader_only"),
        ],
    ),
    promise(
        LIVES,
        "signals and unmounts end it in order",
        &[
            ("tests/cli/daemon.rs", "a_signal_unmounts_and_ends_it_with_status_0"),
            (HERE, "a_lazy_unmount_lets_those_in_the_view_finish"),
            (HERE, "a_mountpoint_that_was_moved_is_unmounted_by_a_signal"),
        ],
    ),
    promise(
        LIVES,
        "without what newer kernels brought (docs/kernels.md), or what a filter of system calls takes away, it works all the \
         same, or says once what is not to be had",
        &[
            (HERE, "a_daemon_without_openat2_and_what_came_later"),
            (HERE, "a_daemon_without_statx_and_copy_file_range"),
            ("tests/kernels/absent.rs", "each_newer_call_and_ability_can_be_missing_and_so_can_all"),
            (
                "tests/kernels/absent.rs",
                "a_directory_is_listed_and_what_is_missing_is_said_where_the_kernel_asks_at_each_open",
            ),
            ("tests/kernels/refused.rs", "what_cannot_be_had_is_refused_once_and_in_one_line"),
        ],
    ),
    promise(
        NO_DOOR,
        "who could not read an object cannot through the mount",
        &[
            (HERE, "nothing_is_readable_that_the_caller_could_not_read"),
            (HERE, "the_kernel_checks_permissions_in_every_mount"),
            ("tests/traps/permissions.rs", "the_kernel_checks_each_caller"),
        ],
    ),
    promise(
        NO_DOOR,
        "nor change it",
        &[
            (HERE, "nothing_is_readable_that_the_caller_could_not_read"),
            (HERE, "attributes_of_security_are_set_as_the_caller_could"),
        ],
    ),
    promise(
        NO_DOOR,
        "nor through data that is found elsewhere",
        &[
            (HERE, "data_that_the_mounter_cannot_read_is_not_shown"),
            ("tests/formats/metacopy.rs", "metacopy in user.* met by root"),
        ],
    ),
    promise(
        NO_DOOR,
        "what is written ends set-user-id, set-group-id and capabilities as elsewhere",
        &[(HERE, "privileges_of_a_changed_file_go_as_in_a_plain_directory")],
    ),
    promise(
        NO_DOOR,
        "a nosuid lower layer gives none",
        &[(HERE, "a_nosuid_lower_layer_gives_no_privilege"), (HERE, "data_of_a_nosuid_layer_gets_no_privilege")],
    ),
    promise(
        NO_DOOR,
        "what stands on workdir, or above it, gives nobody a right to a copy",
        &[
            (HERE, "rights_of_workdir_are_not_those_of_what_is_staged_there"),
            (HERE, "a_workdir_of_another_user_is_taken_from_him"),
        ],
    ),
    promise(
        NO_DOOR,
        "an owner that cannot be set is not replaced by another",
        &[(HERE, "a_file_whose_owner_cannot_be_set_is_not_copied")],
    ),
    promise(
        NO_DOOR,
        "a layer cannot lead the daemon outside of itself",
        &[
            (HERE, "a_directory_swapped_for_a_symlink_leads_nowhere"),
            (HERE, "symlinks_in_place_of_directories_are_symlinks"),
            ("tests/traps/layout.rs", "a_mount_below_a_layer_is_not_entered"),
        ],
    ),
    promise(
        NO_DOOR,
        "the union's own marks are neither seen nor set from inside",
        &[(HERE, "marks_set_from_inside_mark_nothing"), (HERE, "the_unions_own_marks_are_not_there")],
    ),
    promise(
        NO_DOOR,
        "one upper layer has one daemon, and what a view writes is never seen in it as lower",
        &[
            (HERE, "an_upper_layer_in_use_is_in_use_by_every_path"),
            (HERE, "what_is_written_is_absent_from_a_lower_layer_that_holds_it"),
            (HERE, "what_is_written_is_absent_through_bind_mounts"),
            (HERE, "a_lower_layer_in_what_is_written_is_refused"),
            (HERE, "layers_that_meet_through_a_bind_mount_are_refused"),
        ],
    ),
];

/// The table for docs/semantics.md.
pub fn markdown() -> String {
    let (mut text, mut last) = (String::from("| promise | tests |\n|---|---|\n"), "");
    for Promise { promise, clause, by } in &PROMISES {
        let head = if *promise == last { String::new() } else { format!("**{promise}**: ") };
        last = promise;
        let named = by.iter().map(|(file, name)| match *file {
            crate::table::HERE => format!("`{name}` in `tests/hostile`"),
            file if name.contains(' ') => format!("row \"{name}\" in `{file}`"),
            _ => format!("`test:{name}`"),
        });
        let _ = writeln!(text, "| {head}{clause} | {} |", named.collect::<Vec<_>>().join(", "));
    }
    text
}
