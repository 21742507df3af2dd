//! The table: hostile layers and clients, privileges, and the causes of what was found in the peers.

use crate::Ran;
use crate::{attributes, clear, daemon, layers, nodes, nosuid, overlap, privilege, race, sandbox, within, workdir};

/// Which part of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Hostile layers and clients.
    Hostile,
    /// What went wrong with privileges elsewhere.
    Privilege,
    /// What runs found in the peers.
    Peers,
}

use By::There;
use Section::{Hostile, Peers, Privilege};

/// What shows what becomes of a case.
pub enum By {
    /// A function here.
    Here(&'static str, fn() -> Ran),
    /// A test, or the name of a row in a table of tests, in this file; or a function of another row here.
    There(&'static str, &'static str),
}

/// A case, and who answers for it.
pub struct Row {
    pub section: Section,
    pub case: &'static str,
    pub by: &'static [By],
}

/// The file of a function that another row has.
pub const HERE: &str = "tests/hostile";

/// A function of this suite with its name.
macro_rules! here {
    ($module:ident :: $name:ident) => {
        By::Here(stringify!($name), $module::$name)
    };
}

const fn row(section: Section, case: &'static str, by: &'static [By]) -> Row {
    Row { section, case, by }
}

const REDIRECT: &str = "tests/formats/redirect.rs";
const METACOPY: &str = "tests/formats/metacopy.rs";
const MARKS: &str = "tests/formats/marks.rs";
const INDEX: &str = "tests/formats/index.rs";
const SPECIAL: &str = "tests/regressions/special.rs";
const REMOVAL: &str = "tests/regressions/removal.rs";
const COPY_UP: &str = "tests/regressions/copy_up.rs";
const HEADLINE: &str = "tests/regressions/headline.rs";
const OPEN_FILES: &str = "tests/regressions/open_files.rs";
const REFUSALS: &str = "tests/regressions/refusals.rs";
const PERMISSIONS: &str = "tests/traps/permissions.rs";
const LAYOUT: &str = "tests/traps/layout.rs";
const LISTING: &str = "tests/traps/listing.rs";
const DAEMON: &str = "tests/cli/daemon.rs";

/// All rows.
pub const ROWS: &[Row] = &[
    row(
        Hostile,
        "a symlink in place of another layer's directory; absolute ones and ..",
        &[
            here!(layers::symlinks_in_place_of_directories_are_symlinks),
            here!(layers::a_symlink_of_the_upper_layer_is_no_way_into_a_lower_one),
            There(REDIRECT, "to a symlink"),
            There(REDIRECT, "through a symlink"),
            There("src/sys/path.rs", "no_open_leaves_the_directory_or_follows_a_symlink"),
        ],
    ),
    row(
        Hostile,
        "a directory swapped for a symlink while the daemon walks, with openat2 and without",
        &[
            here!(race::a_directory_swapped_for_a_symlink_leads_nowhere),
            here!(race::a_directory_swapped_while_openat2_is_refused_leads_nowhere),
        ],
    ),
    row(
        Hostile,
        "openat2 and newer calls answer ENOSYS (old kernel) or EPERM (seccomp)",
        &[
            here!(sandbox::a_daemon_without_openat2_and_what_came_later),
            here!(sandbox::a_daemon_without_statx_and_copy_file_range),
        ],
    ),
    row(
        Hostile,
        "fifo, socket, device nodes in lowers",
        &[
            here!(nodes::nodes_of_a_lower_layer_are_handled_and_never_opened),
            here!(nodes::a_fifo_without_a_writer_holds_up_its_reader_only),
            There(SPECIAL, "fifos_sockets_and_devices"),
            There(METACOPY, "a fifo"),
        ],
    ),
    row(
        Hostile,
        "files of mode 000, directories of mode 000 and 0311, daemon not root",
        &[
            here!(nodes::what_is_closed_to_the_daemon_is_closed_to_the_caller),
            There(SPECIAL, "closed_files_and_directories_can_be_handled_as_their_mode_allows"),
        ],
    ),
    row(
        Hostile,
        "xattr redirect with .., //, 4 KiB, NUL, a loop, absolute outside",
        &[
            There(REDIRECT, "upwards at once"),
            There(REDIRECT, "upwards later"),
            There(REDIRECT, "with two slashes"),
            There(REDIRECT, "of 4,000 bytes"),
            There(REDIRECT, "with a NUL"),
            There(REDIRECT, "redirects in a circle"),
            There(REDIRECT, "redirect of 64 KiB"),
            There(REDIRECT, "to a path that is nowhere"),
        ],
    ),
    row(
        Hostile,
        "metacopy of a bad length or version, origin garbage, nlink U-999999, opaque of 64 KiB, names of 250 bytes",
        &[
            There(METACOPY, "that is longer than it says"),
            There(METACOPY, "of version 1"),
            There(METACOPY, "of 3,000 bytes"),
            There(MARKS, "of nothing that is there"),
            There(MARKS, "of 64 KiB"),
            There(MARKS, "an escaped mark of 250 bytes"),
            There(INDEX, "U-999999"),
        ],
    ),
    row(
        Hostile,
        "a list of attributes of 65,000 bytes, a value of 64 KiB",
        &[
            here!(layers::attributes_of_64_kib_are_copied_whole),
            here!(layers::a_list_of_attributes_that_is_too_long_refuses_the_copy),
        ],
    ),
    row(
        Hostile,
        "names of 255 bytes, with newlines, .wh. names, no text",
        &[
            here!(layers::names_that_look_like_marks_are_names),
            There(SPECIAL, "names_of_255_bytes_and_of_any_bytes"),
            There(REMOVAL, "a_user_may_name_a_file_dot_wh"),
            There("tests/interop/directories.rs", "names_that_are_not_plain"),
        ],
    ),
    row(
        Hostile,
        "a path deeper than PATH_MAX, 5,000 levels",
        &[
            There(COPY_UP, "paths_longer_than_path_max"),
            There("tests/load/depth.rs", "five_thousand_levels_are_made_walked_copied_up_renamed_and_removed"),
        ],
    ),
    row(
        Hostile,
        "1,000,000 entries in a directory; entries changed during readdir",
        &[
            There(LISTING, "ten_thousand_names_while_half_of_them_go"),
            There(LISTING, "offsets_of_a_directory_stay_good"),
            There(REMOVAL, "a_directory_emptied_while_it_is_read"),
            There("tests/load/listing.rs", "a_large_directory_is_listed_and_emptied_in_linear_time_and_little_memory"),
        ],
    ),
    row(
        Hostile,
        "client killed in the middle of a copy-up of 10 GiB",
        &[There("tests/load/interrupts.rs", "a_client_killed_in_a_copy_up_is_gone_within_a_second_and_so_is_the_copy")],
    ),
    row(
        Hostile,
        "ulimit -n 256, ulimit -v, cgroup memory limit",
        &[
            There("tests/load/descriptors.rs", "six_hundred_open_files_with_256_descriptors"),
            There("tests/load/memory.rs", "little_memory_makes_it_slower_not_wrong"),
        ],
    ),
    row(
        Hostile,
        "SIGSTOP and SIGCONT; SIGTERM with open files; umount -l with open files; the mountpoint removed or moved",
        &[
            here!(daemon::a_daemon_that_is_stopped_goes_on_later),
            here!(daemon::a_lazy_unmount_lets_those_in_the_view_finish),
            here!(daemon::a_mountpoint_that_is_removed_ends_the_daemon_well),
            here!(daemon::a_mountpoint_that_was_moved_is_unmounted_by_a_signal),
            There(DAEMON, "a_busy_view_leaves_the_tree_at_once_and_serves_who_is_in_it"),
            There(OPEN_FILES, "sigterm_with_an_open_file_leaves_no_dead_mount"),
        ],
    ),
    row(
        Hostile,
        "upper filled, remounted read-only, its device gone",
        &[
            There(OPEN_FILES, "a_full_upper_says_so_and_loses_nothing"),
            There("tests/faults/upper.rs", "a_full_upper_refuses_what_needs_room_and_goes_on_when_there_is_some"),
            There("tests/faults/upper.rs", "an_upper_that_was_made_read_only_says_so_and_can_be_written_again"),
            There("tests/faults/upper.rs", "an_upper_whose_device_is_gone_gives_eio_and_the_mount_ends_in_order"),
        ],
    ),
    row(
        Hostile,
        "write through the mount of user.overlay.*, trusted.overlay.*, user.fuseoverlayfs.*, user.containers.override_*",
        &[
            here!(attributes::marks_set_from_inside_mark_nothing),
            here!(attributes::the_unions_own_marks_are_not_there),
            There("tests/interop/directories.rs", "marks_set_through_the_mount"),
            There(PERMISSIONS, "trusted_xattrs_are_not_listed_to_users"),
        ],
    ),
    row(
        Hostile,
        "two daemons on one upper",
        &[
            here!(overlap::an_upper_layer_in_use_is_in_use_by_every_path),
            There(REFUSALS, "an_upper_or_a_workdir_in_use_by_another_daemon"),
        ],
    ),
    row(
        Hostile,
        "upper inside lower, lower inside upper, by paths and by bind mounts",
        &[
            here!(within::what_is_written_is_absent_from_a_lower_layer_that_holds_it),
            here!(within::what_is_written_is_absent_through_bind_mounts),
            here!(within::no_mark_leads_into_what_is_written),
            here!(within::a_lower_layer_in_what_is_written_is_refused),
            here!(overlap::layers_that_meet_through_a_bind_mount_are_refused),
            There(REFUSALS, "layers_that_cannot_be"),
        ],
    ),
    row(
        Hostile,
        "lower that is the mountpoint, or holds it",
        &[
            here!(overlap::a_view_on_top_of_its_own_layer_is_right),
            There(LAYOUT, "the_mountpoint_is_one_of_the_layers"),
            There(LAYOUT, "the_mountpoint_below_a_lower_layer"),
            There(LAYOUT, "the_root_directory_as_a_lower_layer"),
            There(LAYOUT, "a_mount_below_a_layer_is_not_entered"),
        ],
    ),
    row(
        Hostile,
        "a workdir with a past",
        &[
            here!(overlap::a_workdir_with_odd_things_in_it_is_cleaned_or_refused),
            There(MARKS, "leftovers in the workdir"),
            There(MARKS, "an unknown feature in the workdir"),
            There(HEADLINE, "bug_3_a_stale_file_in_workdir_ends_up_in_a_users_file"),
        ],
    ),
    row(
        Privilege,
        "rights and flags that stand on workdir, or above it, or stood there in an earlier run",
        &[
            here!(workdir::rights_of_workdir_are_not_those_of_what_is_staged_there),
            here!(workdir::a_workdir_of_another_user_is_taken_from_him),
            here!(workdir::the_group_that_a_mount_hands_on_is_not_that_of_workdir),
            here!(workdir::flags_of_workdir_say_how_a_copy_is_stored_not_how_it_behaves),
        ],
    ),
    row(
        Privilege,
        "CVE-2023-0386, CVE-2021-3847: suid and capabilities out of a nosuid or foreign-owned lower",
        &[
            here!(nosuid::a_nosuid_lower_layer_gives_no_privilege),
            here!(nosuid::data_of_a_nosuid_layer_gets_no_privilege),
            here!(nosuid::data_of_a_nosuid_layer_gets_no_privilege_by_the_first_change),
            here!(nosuid::a_nosuid_upper_layer_and_a_nosuid_view_keep_what_was_set),
            here!(nosuid::in_a_user_namespace_nosuid_of_a_layer_is_ignored),
            here!(nosuid::a_file_whose_owner_cannot_be_set_is_not_copied),
            There(SPECIAL, "a_lower_layer_on_a_nosuid_mount_gives_no_suid"),
            There(COPY_UP, "owners_are_kept"),
            There(COPY_UP, "xattrs_acls_and_capabilities_are_kept"),
        ],
    ),
    row(
        Privilege,
        "CVE-2021-3493, CVE-2023-2640, CVE-2023-32629: security.capability set without the check",
        &[
            here!(attributes::attributes_of_security_are_set_as_the_caller_could),
            There(PERMISSIONS, "users_cannot_write_the_unions_own_marks"),
        ],
    ),
    row(
        Privilege,
        "CVE-2015-1328, CVE-2015-8660, CVE-2016-1575, CVE-2016-1576: permission checks bypassed, sgid and ACL kept",
        &[
            here!(privilege::the_kernel_checks_permissions_in_every_mount),
            There(PERMISSIONS, "the_kernel_checks_each_caller"),
            There(PERMISSIONS, "an_acl_set_from_outside_the_group_drops_sgid"),
            There(PERMISSIONS, "default_acls_and_the_umask"),
            There(PERMISSIONS, "acl_and_mode_follow_each_other"),
            There(HEADLINE, "bug_4_copy_up_widens_the_mode_of_a_directory"),
        ],
    ),
    row(
        Privilege,
        "CVE-2020-16120: files opened with the mounter's rights that the caller could not reach",
        &[
            here!(privilege::nothing_is_readable_that_the_caller_could_not_read),
            There("tests/cli/options.rs", "others_may_enter_where_the_kernel_overlayfs_lets_them"),
            There(LAYOUT, "allow_root_is_refused_by_name"),
        ],
    ),
    row(
        Privilege,
        "CVE-2014-9922: unlimited stacking",
        &[
            here!(daemon::views_nest_until_the_kernel_says_no),
            There(LAYOUT, "a_mount_as_the_layer_of_another"),
            There("tests/filesystems/nested.rs", "the_kernels_upper_layer_inside_a_mount"),
        ],
    ),
    row(
        Privilege,
        "a hand-made file with redirect and metacopy shows a 0600 file",
        &[
            here!(privilege::data_that_the_mounter_cannot_read_is_not_shown),
            There(METACOPY, "metacopy in user.* met by root"),
            There(REDIRECT, "redirect in user.* met by root"),
            There("tests/regressions/marks.rs", "marks_of_users_lead_nowhere_for_root_whatever_the_upper_layer_takes"),
        ],
    ),
    row(Privilege, "fusermount's mountpoint raced by a symlink", &[here!(privilege::fusermount_is_not_led_astray)]),
    row(
        Privilege,
        "passthrough of a lower descriptor: writes land in the lower layer",
        &[
            There(HEADLINE, "bug_1_a_write_beside_a_reader_reaches_the_lower_layer"),
            There(HEADLINE, "bug_7_passthrough_without_the_right_to_it"),
            There("tests/data_path.rs", "who_opened_the_lower_file_sees_what_is_written_later"),
        ],
    ),
    row(
        Privilege,
        "write, truncate, chown on a suid file with capabilities",
        &[
            here!(clear::privileges_of_a_changed_file_go_as_in_a_plain_directory),
            here!(clear::privileges_go_in_each_way_that_data_goes),
            here!(clear::privileges_of_an_upper_file_go_in_each_way_that_data_goes),
            here!(clear::a_program_that_a_user_has_written_runs_as_that_user),
            There(PERMISSIONS, "changes_of_owner_and_content_clear_what_they_must"),
            There("tests/data_path.rs", "a_users_write_ends_set_user_id_that_was_set_while_the_file_was_open"),
        ],
    ),
    row(
        Peers,
        "a new file renamed over a whited-out name, then removed: the lower name is back (1.10)",
        &[There(REMOVAL, "a_name_renamed_over_a_whiteout_and_removed_stays_removed")],
    ),
    row(
        Peers,
        "an append to one name of a lower hard link lands under the other (1.10)",
        &[
            There(HEADLINE, "bug_5_names_of_one_lower_inode_disagree_after_a_write"),
            There("tests/interop/files.rs", "a_hard_link_is_written_and_its_other_names_read"),
        ],
    ),
    row(
        Peers,
        "mkdir over a whiteout not opaque: the old tree is back (both)",
        &[
            There(HEADLINE, "bug_2_a_directory_made_again_brings_deleted_files_back"),
            There("tests/interop/directories.rs", "deleted_and_made_anew_as_another_kind"),
        ],
    ),
    row(
        Peers,
        "a descriptor open for reading across the copy-up: the append goes into the lower file (2.0)",
        &[
            There(HEADLINE, "bug_1_a_write_beside_a_reader_reaches_the_lower_layer"),
            There(OPEN_FILES, "a_reader_sees_what_is_written_after_it_opened"),
        ],
    ),
    row(
        Peers,
        "names listed that do not exist; marks shown to the kernel's mount (both)",
        &[
            There(REMOVAL, "every_name_that_is_listed_exists"),
            There(REMOVAL, "dot_wh_marks_of_a_lower_layer_hide_names"),
            There("tests/interop/histories.rs", "plyfs_as_root_first_then_the_kernel"),
            There("tests/interop/histories.rs", "plyfs_without_privilege_first_then_the_kernel"),
        ],
    ),
    row(
        Peers,
        "rmdir ENOTEMPTY on an empty-looking directory, mkdir EEXIST after a remount (2.0)",
        &[
            There(REMOVAL, "a_directory_that_looks_empty_can_be_removed"),
            There(REMOVAL, "trees_removed_and_made_again_have_only_what_is_new"),
        ],
    ),
    row(
        Peers,
        "a directory of the upper swapped for a symlink: a file outside unlinked; a fifo's chmod EIO (1.10); touch .wh.x",
        &[
            There(HERE, "a_directory_swapped_for_a_symlink_leads_nowhere"),
            There(HERE, "nodes_of_a_lower_layer_are_handled_and_never_opened"),
            There(HERE, "names_that_look_like_marks_are_names"),
        ],
    ),
    row(
        Peers,
        "ENAMETOOLONG beyond about 370 levels; 200,000 entries listed and emptied slowly (both)",
        &[
            There(COPY_UP, "paths_longer_than_path_max"),
            There(REMOVAL, "a_directory_emptied_while_it_is_read"),
            There("tests/load/depth.rs", "five_thousand_levels_are_made_walked_copied_up_renamed_and_removed"),
            There("tests/load/listing.rs", "a_large_directory_is_listed_and_emptied_in_linear_time_and_little_memory"),
        ],
    ),
    row(
        Peers,
        "893 bytes a file, not given back; SIGTERM with open files leaves a dead mount (2.0)",
        &[
            There("tests/memory.rs", "an_inode_costs_little_and_nothing_once_it_is_forgotten"),
            There(OPEN_FILES, "sigterm_with_an_open_file_leaves_no_dead_mount"),
        ],
    ),
    row(
        Peers,
        "kill of a client in a 2 GiB copy-up: made to the end (both)",
        &[There("tests/load/interrupts.rs", "a_client_killed_in_a_copy_up_is_gone_within_a_second_and_so_is_the_copy")],
    ),
    row(
        Peers,
        "writes keep 4777 and 6777 (2.0), the owner's suid (1.10); sgid directories not inherited (both), umask (2.0)",
        &[
            There(HERE, "privileges_of_a_changed_file_go_as_in_a_plain_directory"),
            There(SPECIAL, "a_write_by_a_user_clears_suid"),
            There(SPECIAL, "a_setgid_directory_is_inherited"),
            There(SPECIAL, "the_umask_of_the_caller_counts"),
        ],
    ),
    row(
        Peers,
        "daemon as a normal user: no search through 0311, no removal of a mode-000 file (both)",
        &[There(HERE, "what_is_closed_to_the_daemon_is_closed_to_the_caller")],
    ),
    row(
        Peers,
        "a lower on a nosuid mount: suid, sgid and capabilities shown and copied (all three)",
        &[There(HERE, "a_nosuid_lower_layer_gives_no_privilege")],
    ),
    row(
        Peers,
        "two daemons on one upper (all three); an upper inside a lower (both)",
        &[There(REFUSALS, "an_upper_or_a_workdir_in_use_by_another_daemon"), There(REFUSALS, "layers_that_cannot_be")],
    ),
    row(
        Peers,
        "tar: Directory renamed before its status could be extracted (1.10)",
        &[
            here!(daemon::tar_unpacks_over_a_lower_tree_without_a_word),
            There(COPY_UP, "inode_numbers_are_kept_by_copy_up_and_rename"),
        ],
    ),
    row(
        Peers,
        "a full upper with writeback caching: ENOSPC never seen (1.10)",
        &[There(OPEN_FILES, "a_full_upper_says_so_and_loses_nothing")],
    ),
    row(
        Peers,
        "descriptors, temporary files and memory that stay",
        &[
            here!(daemon::nothing_stays_open_and_nothing_stays_in_workdir),
            There("tests/traps/numbers.rs", "inodes_die_with_their_last_name"),
        ],
    ),
];
