//! Layers that come and go: what commits hold that the view does not stand on, and files of one layer whose data is in another.

use std::fs;

use crate::common::stack::{Layer, prefix};
use crate::common::*;
use crate::layers::{Joined, sh};
use crate::{about, plyfs};

/// Layers 2 and 3 of four are mounted: what was changed, then committed and undone, the layer that comes or goes (9) and
/// where to, and whose data stands in the way.
const KEPT: &[(&str, (usize, usize), Option<&str>)] = &[
    ("chmod 640 low", (3, 9), Some("low")),
    ("mv low moved", (0, 0), Some("moved")),
    ("mv low d/moved", (3, 9), Some("d/moved")),
    // The layer hides nothing of what the commit has.
    ("chmod 640 d/base", (0, 0), None),
    ("echo more >> low", (3, 9), None),
    ("mv d/base own", (2, 9), None),
];

fn joined() -> Joined {
    let stack = Stack::new(0);
    let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
    layers[0].file("low", "another").file("d/one", "1");
    layers[2].file("d/app", "a");
    layers[3].file("low", "low").file("d/base", "b");
    Joined::over(stack, layers, vec![2, 3])
}

#[test]
fn what_redo_leads_to_keeps_its_data() {
    within(120, || {
        for (script, (n, place), held) in KEPT {
            let mut joined = joined();
            let at = joined.mount.root().to_owned();
            sh(&at, script);
            about("commit", &at).unwrap();
            let was = crate::layers::view(&joined.mount);
            plyfs(&["undo", at.to_str().unwrap(), "0"]).unwrap();
            let done = if *place == 9 { joined.remove(*n) } else { joined.add(*n, *place) };
            match (held, done) {
                (Some(path), Err(why)) => {
                    assert!(why.contains(&format!("commit 1 has changed {path}, whose data")), "{script}: {why}");
                    about("redo", &at).unwrap();
                    crate::layers::differ(script, &crate::layers::view(&joined.mount), &was);
                }
                (None, Ok(_)) => {
                    about("redo", &at).unwrap();
                    joined.check(script);
                }
                (_, done) => panic!("{script}: {done:?}"),
            }
        }
    });
}

#[test]
fn a_file_of_a_layer_gets_the_data_that_a_mount_would_find() {
    within(60, || {
        let stack = Stack::new(0);
        let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
        let (metacopy, redirect) = (format!("{}metacopy", prefix()), format!("{}redirect", prefix()));
        layers[2].file("seen", [0; 4]).with_xattr("seen", &metacopy, b"").with_xattr("seen", &redirect, b"/from");
        layers[3].file("from", "base");
        layers[1].file("from", "join");
        let mut joined = Joined::over(stack, layers, vec![2, 3]);
        let seen = joined.mount.root().join("seen");
        assert_eq!(fs::read(&seen).unwrap(), b"base");
        joined.add(1, 1).unwrap();
        assert_eq!(fs::read(&seen).unwrap(), b"join");
        joined.check("with the layer");
        joined.remove(1).unwrap();
        assert_eq!(fs::read(&seen).unwrap(), b"base");
        joined.check("without the layer");
    });
}

#[test]
fn a_path_that_cannot_be_printed_is_not() {
    within(60, || {
        let joined = joined();
        let dir = joined.stack.scratch.dir("new\nline");
        let said = plyfs(&["layer", "add", joined.mount.root().to_str().unwrap(), dir.to_str().unwrap()]).unwrap();
        assert!(said.contains("cannot be printed") && said.lines().count() == 1, "{said}");
    });
}

#[test]
fn a_view_on_this_one_and_a_path_of_its_own_are_refused() {
    within(60, || {
        let mut joined = joined();
        let (at, log) = (joined.stack.scratch.dir("above"), joined.stack.scratch.path().join("log of above"));
        let above = Mount::with(&format!("lowerdir={}", joined.mount.root().display()), &at, &log);
        let add = |dir: &str| plyfs(&["layer", "add", joined.mount.root().to_str().unwrap(), dir]);
        let why = add(at.to_str().unwrap()).unwrap_err();
        assert!(why.contains("each would wait for the other") && why.lines().count() == 1, "{why}");
        drop(above);
        let lower = joined.layers[3].root().to_owned();
        let aside = joined.stack.scratch.path().join("aside");
        fs::rename(&lower, &aside).unwrap();
        fs::create_dir(&lower).unwrap();
        let why = add(lower.to_str().unwrap()).unwrap_err();
        assert!(why.contains("has another directory as a layer of that path"), "{why}");
        fs::remove_dir(&lower).unwrap();
        fs::rename(&aside, &lower).unwrap();
        joined.add(0, 0).unwrap();
    });
}
