//! What the command has around it: mounts, the network, the programs of the machine, `/dev/fuse`.

use std::fs;
use std::process::{Command, Stdio};

use super::{Place, can_run, stderr};
use crate::common::mount::wait_until;
use crate::common::*;

/// Root's script in a mount namespace of its own, with `$PLYFS` and `$STORE`; its output.
fn with_mounts(place: &Place, script: &str) -> String {
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-euc", script]).current_dir(&place.here);
    let run = format!(
        "{} run -q --store {}",
        crate::common::mount::binary().display(),
        place.scratch.path().join("store").display()
    );
    let out = command.env("RUN", run).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn mounts_below_are_covered_each_with_its_flags_and_kept_apart_by_what_they_are() {
    if who() != Who::Root {
        skip!("only root can mount");
    }
    let place = Place::new();
    // A file system at the same place that is another one begins anew.
    let script = "mount -t tmpfs one dir; echo A >dir/doc; $RUN -n x sh -c 'echo changed >dir/doc'; cat dir/doc
        umount dir; mount -t tmpfs two dir; echo B >dir/doc; $RUN -n x cat dir/doc";
    assert_eq!(with_mounts(&place, script), "A\nB\n");
    // Flags, below `--on` too.
    let script = "mount -t tmpfs -o noexec,nosuid one dir; cp /bin/true dir; for on in '' '--on .'; do
        $RUN --rm $on sh -c 'dir/true 2>/dev/null || echo refused'; done";
    assert_eq!(with_mounts(&place, script), "refused\nrefused\n");
    // A mountpoint that the session has removed.
    let script = "$RUN -n y rm -r dir; mount -t tmpfs one dir; $RUN -n y ls";
    let said = with_mounts(&place, script);
    assert!(said.starts_with("file\n") && said.contains("dir is not in the view"), "{said}");
    // What holds files is covered below a tree that is shown as it is, too.
    let script = "mkdir real; mount -t tmpfs run /run; mkdir /run/in; mount --bind real /run/in
        $RUN --rm sh -c 'echo leak >/run/in/leak; echo through >/run/through'; cat /run/through; ls real";
    assert_eq!(with_mounts(&place, script), "through\n");
}

#[test]
fn a_resume_tells_which_file_systems_were_not_begun() {
    if who() != Who::Root {
        skip!("only root can mount");
    }
    let place = Place::new();
    // As an apply leaves it that is killed at the end of the first one.
    let script = "mount -t tmpfs one dir; echo A >dir/doc; $RUN -n x sh -c 'echo b >dir/doc; echo two >>file'
        set -- ${RUN%% *} apply --store ${RUN##* } x
        mkdir -p ${RUN##* }/x/0/work/work/incompat/plyfs.apply
        : >${RUN##* }/x/0/work/work/incompat/plyfs.apply/cleaning
        \"$@\" --resume || echo status $?; \"$@\"; cat dir/doc";
    let said = with_mounts(&place, script);
    let (told, rest) = said.split_once("status 1\n").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(told, "the apply that was broken off is done\n");
    assert!(
        rest.contains("b\n") && rest.contains(": its changes were not begun, and are still in the session"),
        "{said}"
    );
}

#[test]
fn a_joined_command_has_no_network_either() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let mut first = place.plyfs("run", &["-q", "-n", "x", "--no-net", "sh", "-c", "read line"]);
    let mut first = first.stdin(Stdio::piped()).spawn().unwrap();
    assert!(wait_until(|| place.status().contains("in use")));
    assert_eq!(place.said(&["-n", "x"], "tail -n +3 /proc/net/dev | wc -l"), "1\n");
    drop(first.stdin.take());
    first.wait().unwrap();
}

/// What people run: a name, the programs that it takes, a script, and its last line of output.
const PROGRAMS: [(&str, &[&str], &str, &str); 6] = [
    (
        "git",
        &["git"],
        "export HOME=$PWD; git init -q r 2>/dev/null; cd r; git config user.email a@b; git config user.name x; \
         for i in 1 2 3 4 5; do echo $i >f$i; git add .; git commit -qm $i; done; git gc -q; git fsck 2>&1 && \
         git mv f1 g && git commit -qam mv && git log --oneline | wc -l",
        "6",
    ),
    (
        "make and cc",
        &["make", "cc"],
        "for i in 1 2 3 4; do echo \"int f$i(void) { return $i; }\" >f$i.c; done; \
         echo 'int main(void) { return 0; }' >m.c; printf 'm: m.o f1.o f2.o f3.o f4.o\\n' >Makefile; make -s -j4 && ./m && echo made",
        "made",
    ),
    ("python", &["python3"], "python3 -m venv --without-pip v && v/bin/python -c 'print(6 * 7)'", "42"),
    ("an editor", &["sed"], "cp -a file copy; sed -i.bak s/one/two/ copy; mv copy.bak old; cat copy", "two"),
    ("tar", &["tar"], "tar cf t.tar dir file && rm -r dir && tar xf t.tar && cat dir/f", "f"),
    (
        "bash with job control",
        &["bash", "script"],
        "script -qec 'bash --norc -i -c \"sleep 0.2 & jobs -r | wc -l; fg >/dev/null; echo over\"' /dev/null </dev/null | tr -d '\\r'",
        "over",
    ),
];

#[test]
fn programs_do_what_they_do_outside() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for (name, programs, script, last) in PROGRAMS {
        let is_here = |program: &&str| Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
        if let Some(missing) = programs.iter().find(|program| !is_here(program).status.success()) {
            say_skipped(&format!("{name}: no {missing}"));
            continue;
        }
        let out = place.run(&["-q", "-n", "programs"], script);
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(text.lines().last(), Some(last), "{name}: {}\n{text}\n{}", out.status, stderr(&out));
    }
    assert_eq!(fs::read_dir(&place.here).unwrap().count(), 2, "it stayed as it was");
}

#[test]
fn without_a_device_one_line_says_so() {
    if who() != Who::Root {
        skip!("root takes the device away");
    }
    let place = Place::new();
    let line = format!(
        "mount -t tmpfs x /dev; exec {} run --store {} true",
        crate::common::mount::binary().display(),
        place.scratch.path().join("store").display()
    );
    let out = Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &line]).output().unwrap();
    assert_eq!(out.status.code(), Some(125));
    let hint = "modprobe fuse; for a container: --device /dev/fuse";
    assert_eq!(stderr(&out), format!("plyfs: /dev/fuse: No such file or directory (os error 2) ({hint})\n"));
}
