//! Upper and work directory inside a lower layer, as with `lowerdir=/`: they are no part of what the view shows.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::FileType;

use crate::common::view::{Object, layer};
use crate::common::*;
use crate::overlap::{bind, try_mount};
use crate::{Ran, not_here};

/// Where the two are in the lower layer.
const PLACES: [(&str, &str); 6] = [
    ("up", "wk"),
    ("a/up", "a/wk"),
    ("a/b/up", "a/b/wk"),
    ("a/b/c/up", "a/b/c/wk"),
    ("a/b/up", "wk"),
    ("up", "a/b/c/wk"),
];

fn parent(path: &str) -> String {
    path.rsplit_once('/').map(|(dir, _)| dir.to_owned()).unwrap_or_default()
}

/// A lower layer that holds an upper and a work directory; each directory of it has a file `keep`.
fn holding(upper: &str, work: &str) -> Stack {
    let mut stack = Stack::new(1);
    for dir in ["", "a/", "a/b/", "a/b/c/", "other/"] {
        stack.lowers[0].file(&format!("{dir}keep"), dir);
    }
    stack.lowers[0].file(&format!("{upper}/own"), "of the upper").dir(work, 0o755);
    stack.upper = Some(stack::Layer::new(stack.lowers[0].at(upper)));
    stack.lowers[0].age();
    stack
}

/// What of the lower layer is not hidden.
fn shown(stack: &Stack, upper: &str, work: &str) -> BTreeMap<Vec<u8>, Object> {
    let hidden = |path: &[u8]| [upper, work].iter().any(|dir| path.starts_with(dir.as_bytes()));
    let mut objects = layer(stack.lowers[0].root()).objects;
    objects.retain(|path, _| !hidden(path));
    objects
}

fn check_absent(mount: &Mount, dir: &str) {
    let (dir, name) = (parent(dir), dir.rsplit('/').next().unwrap());
    let path = format!("{dir}/{name}");
    let path = path.trim_start_matches('/');
    assert!(!mount.names(&dir).unwrap().contains(&name.to_owned()), "{path} is listed");
    assert_eq!(mount.stat(path).map(drop), Err(Errno::NOENT), "{path}");
    assert_eq!(mount.read(format!("{path}/own")).map(drop), Err(Errno::NOENT), "{path}");
    assert_eq!(mount.rmdir(path), Err(Errno::NOENT), "{path}");
    assert_eq!(mount.rename(path, "elsewhere"), Err(Errno::NOENT), "{path}");
}

/// What the view counts as directories in a directory, by its link count where it has one.
fn links_are_right(mount: &Mount, dir: &str) {
    let names = mount.names(dir).unwrap();
    let dirs = names
        .iter()
        .filter(|name| FileType::from_raw_mode(mount.stat(format!("{dir}/{name}")).unwrap().st_mode).is_dir());
    let (dirs, links) = (dirs.count() as u64, mount.stat(dir).unwrap().st_nlink);
    assert!(links == 1 || links == dirs + 2, "{dir:?} has {dirs} directories and {links} links");
}

fn act(mount: &mut Mount, upper: &str, work: &str) {
    for dir in [upper, work] {
        check_absent(mount, dir);
    }
    for dir in ["a", "a/b", "a/b/c"] {
        links_are_right(mount, dir);
    }
    assert_eq!(mount.text("own"), "of the upper");
    mount.append("a/b/keep", "+").unwrap();
    // A new object of a hidden name is of the upper layer, and nothing of what is hidden shows through it.
    mount.mkdir(upper, 0o755).unwrap();
    mount.write(format!("{upper}/new"), "new").unwrap();
    mount.write(work, "a file").unwrap();
    mount.remount();
    assert_eq!(mount.names(upper).unwrap(), ["new"]);
    assert_eq!(mount.text(work), "a file");
    mount.unlink(work).unwrap();
    mount.unlink(format!("{upper}/new")).unwrap();
    mount.rmdir(upper).unwrap();
    check_absent(mount, upper);
    check_absent(mount, work);
    // The directories that hold them, moved whole.
    mount.rename("a", "moved").unwrap();
    for _ in 0..2 {
        for dir in [upper, work] {
            check_absent(mount, &dir.replacen("a/", "moved/", 1));
        }
        assert_eq!(mount.text("moved/b/keep"), "a/b/+");
        assert_eq!(mount.names("moved/b/c").unwrap(), ["keep"]);
        mount.remount();
    }
    // What holds nothing else is empty.
    mount.unlink("moved/b/c/keep").unwrap();
    mount.rmdir("moved/b/c").unwrap();
    mount.unlink("moved/b/keep").unwrap();
    mount.rmdir("moved/b").unwrap();
    mount.unlink("moved/keep").unwrap();
    mount.rmdir("moved").unwrap();
    mount.remount();
    assert_eq!(mount.names("").unwrap(), ["keep", "other", "own"]);
}

/// Fails on the kernel and fo2 (ELOOP), and on fo1 (shows them).
pub fn what_is_written_is_absent_from_a_lower_layer_that_holds_it() -> Ran {
    for (upper, work) in PLACES {
        let stack = holding(upper, work);
        let before = shown(&stack, upper, work);
        let (lower, up, wk) = (stack.lowers[0].root(), stack.lowers[0].at(upper), stack.lowers[0].at(work));
        let mut mount = try_mount(&stack, lower, &up, &wk).unwrap_or_else(|why| panic!("{upper}: {why}"));
        let said = mount.messages();
        assert!(said.contains("upperdir and workdir"), "mounted without a word: {said}");
        act(&mut mount, upper, work);
        mount.unmount();
        let after = shown(&stack, upper, work);
        assert!(before == after, "{upper} {work}: the lower layer has changed: {before:?} {after:?}");
    }
    Ok(())
}

/// By other ways than the lower layer's own paths: the layer, the upper and the work directory shown elsewhere.
pub fn what_is_written_is_absent_through_bind_mounts() -> Ran {
    for bound in ["lower", "written", "all"] {
        let (upper, work) = ("a/up", "a/wk");
        let stack = holding(upper, work);
        let before = shown(&stack, upper, work);
        let [at_lower, at_both] = ["bound-lower", "bound-both"].map(|name| stack.scratch.dir(name));
        let (lower, a) = (stack.lowers[0].root().to_owned(), stack.lowers[0].at("a"));
        let [one, both] = [bind(&lower, &at_lower), bind(&a, &at_both)];
        if one.is_none() || both.is_none() || who() == Who::User {
            return not_here("bind mounts are needed");
        }
        let (lower, up, wk) = match bound {
            "lower" => (at_lower, a.join("up"), a.join("wk")),
            "all" => (at_lower, at_both.join("up"), at_both.join("wk")),
            _ => (lower, at_both.join("up"), at_both.join("wk")),
        };
        let mut mount = try_mount(&stack, &lower, &up, &wk).unwrap_or_else(|why| panic!("{bound}: {why}"));
        act(&mut mount, upper, work);
        mount.unmount();
        assert!(before == shown(&stack, upper, work), "{bound}: the lower layer has changed");
    }
    Ok(())
}

/// A mark that leads to data in a data-only layer leads to nothing in what is written.
pub fn no_mark_leads_into_what_is_written() -> Ran {
    if who() != Who::Root {
        return not_here("trusted.overlay.* is needed");
    }
    let stack = Stack::new(1);
    let data = stack.scratch.dir("data");
    let layer = stack::Layer::new(data.clone());
    layer.file("in/up/secret", "secret").dir("in/wk", 0o755).file("in/plain", "data");
    for (name, target) in [("leads", "/in/up/secret"), ("plain", "/in/plain")] {
        stack.lowers[0].file(name, "");
        let file = stack.lowers[0].at(name);
        std::fs::File::options().write(true).open(&file).unwrap().set_len(4).unwrap();
        stack.lowers[0].set_xattr(name, "trusted.overlay.metacopy", b"").unwrap();
        stack.lowers[0].set_xattr(name, "trusted.overlay.redirect", target.as_bytes()).unwrap();
    }
    let options = format!(
        "lowerdir={}::{},upperdir={2}/up,workdir={2}/wk",
        stack.lowers[0].root().display(),
        data.display(),
        data.join("in").display()
    );
    let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
    assert_eq!((mount.text("plain"), mount.read("leads")), ("data".into(), Err(Errno::IO)));
    Ok(())
}

/// A lower layer in what is written stays refused, by whatever way it lies there; and nothing is cleaned away.
pub fn a_lower_layer_in_what_is_written_is_refused() -> Ran {
    for (place, bound) in
        [("upper/l", false), ("work/l", false), ("work/work/l", false), ("upper/l", true), ("work/work/l", true)]
    {
        let stack = Stack::new(1);
        let base = stack.scratch.path().to_owned();
        let layer = stack::Layer::new(stack.scratch.dir("work").parent().unwrap().join(place));
        layer.file("f", "x");
        let at = stack.scratch.dir("bound");
        let held = if bound { bind(layer.root(), &at) } else { None };
        if bound && (held.is_none() || who() == Who::User) {
            return not_here("bind mounts are needed");
        }
        let lower: &Path = if bound { &at } else { layer.root() };
        let mounted = try_mount(&stack, lower, &base.join("upper"), &base.join("work"));
        let said = mounted.err().unwrap_or_else(|| panic!("{place}: mounted"));
        assert!(said.contains("lies in"), "{place}: {said}");
        assert_eq!(layer.text("f"), "x", "{place}");
    }
    Ok(())
}
