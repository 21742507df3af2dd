//! Layers that come and go, and what stands around: closed directories, open files, hard links of several layers, other views,
//! file systems without a name.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use plyfs::testing::seam::{Guise, Guised};
use plyfs::union::{InodeId, LayerChange, LayerPlace, Live, Notices, Step};
use plyfs::{Name, Union};
use rustix::process::{Signal, kill_process};

use crate::common::mount::{binary, wait_until};
use crate::common::scratch::Mounted;
use crate::common::stack::Layer;
use crate::common::*;
use crate::layers::{Joined, sh};
use crate::{about, plyfs};

#[test]
fn a_directory_that_its_owner_may_not_list_is_in_no_layers_way() {
    within(60, || {
        let mut joined = Joined::new(&[]);
        let root = joined.mount.root().to_owned();
        sh(&root, "mkdir -p y/z; echo y > y/f; mv d/app y/app; mkdir e/empty; chmod 300 y/z y; chmod 000 e/empty");
        joined.add(0, 0).unwrap();
        joined.remove(0).unwrap();
        assert_eq!((joined.mount.mode("y"), joined.mount.mode("e/empty")), (0o300, 0));
        if who() == Who::User {
            sh(&root, "chmod 700 y; chmod 000 y/z; chmod 600 y");
            let why = joined.add(0, 0).unwrap_err();
            assert!(why.contains("/y cannot be searched") && why.lines().count() == 1, "{why}");
        }
        sh(&root, "chmod 700 y y/z e/empty");
        joined.add(0, 0).unwrap();
        joined.check("with the layer");
    });
}

#[test]
fn nothing_is_copied_for_a_removal_that_is_refused() {
    if who() != Who::Root {
        skip!("metadata alone is copied up by root only");
    }
    within(60, || {
        let mut joined = Joined::new(&[]);
        let root = joined.mount.root().to_owned();
        joined.layers[2].file("large", vec![b'l'; 1 << 20]);
        sh(&root, "chmod 600 large");
        let copied = || fs::metadata(joined.stack.upper().at("large")).unwrap().blocks() * 512;
        assert!(copied() < 1 << 16);
        let open = File::open(root.join("app/only")).unwrap();
        let why = plyfs(&["layer", "remove", root.to_str().unwrap(), joined.at(2)]).unwrap_err();
        assert!(why.contains("1 file of it is open or mapped: app/only"), "{why}");
        assert!(copied() < 1 << 16, "{}", copied());
        drop(open);
        joined.remove(2).unwrap();
        assert!(fs::metadata(joined.stack.upper().at("large")).unwrap().blocks() * 512 >= 1 << 20);
        joined.check("without the layer");
    });
}

#[test]
fn a_file_that_another_layer_has_too_stays_open() {
    within(60, || {
        let stack = Stack::new(0);
        let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
        layers[2].file("one", "linked");
        fs::hard_link(layers[2].at("one"), layers[3].at("another")).unwrap();
        let mut joined = Joined::over(stack, layers, vec![2, 3]);
        let root = joined.mount.root().to_owned();
        sh(&root, "ls -l . > /dev/null; cat one another > /dev/null");
        let mut open = File::open(root.join("another")).unwrap();
        joined.remove(2).unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), joined.mount.text("another").as_str()), ("linked", "linked"));
        sh(&root, "echo more >> another");
        joined.check("without one of its layers");
    });
}

#[test]
fn an_open_file_that_a_layer_hides_is_told_by_its_place_there() {
    within(60, || {
        let mut joined = Joined::new(&[]);
        let open = File::open(joined.mount.root().join("app/only")).unwrap();
        joined.add(1, 0).unwrap();
        let why = joined.remove(2).unwrap_err();
        assert!(why.contains("one without a name in the view (app/only in the layer)"), "{why}");
        drop(open);
        joined.remove(2).unwrap();
    });
}

#[test]
fn a_daemon_that_ends_during_a_step_is_said_to_have_ended() {
    within(60, || {
        let joined = Joined::new(&[]);
        // For the time of some looks it is waited for.
        let _open = File::open(joined.mount.root().join("app/only")).unwrap();
        let mut command = Command::new(binary());
        command.args(["layer", "remove", joined.mount.root().to_str().unwrap(), joined.at(2)]);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        kill_process(joined.mount.pid().unwrap(), Signal::KILL).unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains("its daemon has ended"), "{said}");
    });
}

#[test]
fn a_layer_that_another_view_writes_is_told() {
    within(60, || {
        let mut joined = Joined::new(&[]);
        let scratch = joined.stack.scratch.path().to_owned();
        let work = joined.stack.scratch.dir("work of the other");
        let options = format!("lowerdir={},upperdir={},workdir={}", joined.at(0), joined.at(1), work.display());
        let other = Mount::with(&options, &joined.stack.scratch.dir("other"), &scratch.join("log of the other"));
        let args = ["layer", "add", joined.mount.root().to_str().unwrap(), joined.at(1)];
        let out = Command::new(binary()).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        let written = format!("lowerdir={} is written by", joined.at(1));
        assert!(out.status.success() && said.contains(&written) && said.lines().count() == 1, "{said}");
        joined.order.insert(0, 1);
        assert!(about("status", joined.mount.root()).unwrap().contains(&written));
        joined.remove(1).unwrap();
        assert!(!about("status", joined.mount.root()).unwrap().contains(&written), "it has gone");
        drop(other);
    });
}

#[test]
fn an_overlay_of_the_kernel_that_writes_to_a_layer_later_is_told() {
    if who() == Who::User {
        skip!("only who may mount sees it");
    }
    within(60, || {
        let mut joined = Joined::new(&[]);
        joined.add(1, 0).unwrap();
        let (at, work) = (joined.stack.scratch.dir("k"), joined.stack.scratch.dir("kwork"));
        let options = format!("lowerdir={},upperdir={},workdir={}", joined.at(0), joined.at(1), work.display());
        let user = if who() == Who::Root { "" } else { ",userxattr" };
        let Ok(kernel) = Kernel::with(&format!("{options}{user}"), &at) else { skip!("no OverlayFS of the kernel") };
        let told = || joined.mount.messages().contains("a lower layer is written by the kernel's OverlayFS");
        assert!(wait_until(told), "not a word: {}", joined.mount.messages());
        drop(kernel);
    });
}

struct Nobody;

impl Notices for Nobody {
    fn names_changed(&self, _: InodeId) {}
    fn name_changed(&self, _: InodeId, _: &Name) {}
    fn attributes_changed(&self, _: InodeId) {}
}

/// What is mounted on some view stands in the way here, too: nobody knows whose it is.
#[test]
fn a_layer_that_is_refused_leaves_case_insensitive_directories_to_the_only_one() {
    let stack = Stack::read_only(1);
    stack.lowers[0].dir("at", 0o755).dir("folds", 0o755);
    let mount = stack.mount();
    let Some(_held) = Mounted::tmpfs(&mount.at("at")) else { skip!("no tmpfs here") };
    let more = stack.scratch.dir("more");
    fs::write(more.join("at"), "no directory").unwrap();
    let casefolded = fs::metadata(stack.lowers[0].at("folds")).unwrap().ino();
    let _guised = Guised::new(Guise { casefolded, magic: (0, 0) });
    let union = Union::builder().lower(stack.lowers[0].root()).build().unwrap_or_else(|error| panic!("{error:?}"));
    union.set_notices(Box::new(Nobody));
    let find = |union: &Union, name: &str| union.lookup(InodeId::ROOT, &Name::new(name.as_bytes()).unwrap()).map(drop);
    find(&union, "at").unwrap();
    let live = Live::new(Arc::new(union));
    let stat = fs::metadata(&more).unwrap();
    let add = LayerChange::Add { dir: more, seen: (stat.dev(), stat.ino()), at: LayerPlace::Top };
    let refused = live.step(&Step::Layers(add), &|| Ok(())).unwrap_err();
    assert!(refused.hint.contains("something is mounted"), "{refused:?}");
    assert_eq!(find(&live.enter(), "folds"), Ok(()));
}

/// A tmpfs with a layer, if there can be one.
fn volatile(at: &Path) -> Option<(Mounted, Layer)> {
    let mounted = Mounted::tmpfs(at)?;
    let layer = Layer::new(at.join("layer"));
    layer.file("brought", "b");
    Some((mounted, layer))
}

#[test]
fn file_systems_that_went_leave_their_numbers_to_others() {
    within(120, || {
        let mut joined = Joined::new(&["xino=on"]);
        let all: Vec<_> = (0..70).map(|n| joined.stack.scratch.dir(&format!("t{n}"))).collect();
        let mut held = Vec::new();
        for at in &all {
            let Some((mounted, layer)) = volatile(at) else { skip!("no tmpfs here") };
            // Each has a number of its own.
            held.push(mounted);
            joined.layers[0] = layer;
            joined.add(0, 0).unwrap_or_else(|why| panic!("{}: {why}", at.display()));
            let below = fs::metadata(joined.layers[0].at("brought")).unwrap().ino();
            let seen = joined.mount.stat("brought").unwrap().st_ino;
            assert_eq!(seen & ((1 << 56) - 1), below, "{}", at.display());
            joined.remove(0).unwrap();
        }
    });
}

#[test]
fn without_uuids_changed_files_keep_their_numbers_when_a_file_system_goes() {
    if who() != Who::Root {
        skip!("only root makes the kernel forget");
    }
    within(60, || {
        let mut joined = Joined::new(&["uuid=off"]);
        sh(joined.mount.root(), "echo more >> low");
        let number = |joined: &Joined| joined.mount.stat("low").unwrap().st_ino;
        let before = number(&joined);
        let Some((_held, layer)) = volatile(&joined.stack.scratch.dir("t")) else { skip!("no tmpfs here") };
        joined.layers[0] = layer;
        joined.add(0, 2).unwrap();
        joined.remove(0).unwrap();
        sh(Path::new("/"), "echo 2 > /proc/sys/vm/drop_caches");
        assert_eq!(number(&joined), before);
        joined.mount.remount();
        assert_eq!(number(&joined), before);
    });
}
