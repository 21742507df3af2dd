//! Layers that other union file systems wrote, in each form.

use super::*;

/// A branch of unionfs-fuse after a history, and what it showed; `None`: it is not here.
fn unionfs(stack: &Stack, act: impl FnOnce(&Tree)) -> Option<View> {
    const UNIONFS: &str = "/usr/bin/unionfs";
    if !Path::new(UNIONFS).exists() || who() == Who::Namespace {
        say_skipped("no unionfs-fuse (Debian: unionfs-fuse)");
        return None;
    }
    let branches: Vec<_> = stack.lowers.iter().map(|lower| format!("{}=RO", lower.root().display())).collect();
    let at = stack.scratch.dir("unionfs");
    let branches = format!("{}=RW:{}", stack.upper().root().display(), branches.join(":"));
    let daemon = Command::new(UNIONFS).args(["-f", "-o", "cow,hide_meta_files", &branches]).arg(&at).spawn();
    let mut daemon = daemon.unwrap();
    let is_there = mount::wait_until(|| mount::is_mounted(&at));
    let seen = is_there.then(|| {
        act(&Tree::new(&at));
        View::of(&Tree::new(&at), Walk { foreign: true, without_links: true, ..Walk::default() })
    });
    let _ = mount::unmount_any(&at, false);
    let _ = daemon.kill();
    daemon.wait().unwrap();
    seen
}

#[test]
fn what_unionfs_fuse_hides_stays_hidden() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("a", "a").file("d/x", "x").file("d/sub/y", "y").file("e/z", "z").file("again", "old");
        stack.lowers[1].file("a", "below").file("d/deep/low", "low").file("e/low", "low").file("keep", "k");
        let act = |tree: &Tree| {
            tree.unlink("a").unwrap();
            tree.remove_all("e").unwrap();
            tree.unlink("d/sub/y").unwrap();
            tree.write("d/new", "new").unwrap();
            tree.write("keep", "changed").unwrap();
            tree.unlink("again").unwrap();
            tree.write("again", "new").unwrap();
            tree.mkdir("e", 0o755).unwrap();
            tree.write("e/only", "this").unwrap();
        };
        let Some(before) = unionfs(&stack, act) else { return };
        assert!(before.objects.contains_key(&b"e/only"[..]) && !before.objects.contains_key(&b"e/z"[..]));
        let lowers = [stack.lowers[0].root(), stack.lowers[1].root()];
        for (at, form) in forms().enumerate() {
            for from in [&[][..], &["--from", "unionfs"]] {
                let out = stack.scratch.path().join(format!("out{at}{}", from.len()));
                let words = [form.words, from].concat();
                let none = stack.scratch.path().join("none");
                let (said, _) = refused(&words, stack.upper().root(), &none);
                assert!(said.contains("d/sub: ") && said.contains("--lower"), "{said}");
                convert(&[words, flat(&lowers)].concat(), stack.upper().root(), &out).unwrap();
                let mount = Mount::with(
                    &lowerdir(&[&out, lowers[0], lowers[1]], form.options),
                    &stack.scratch.dir("view"),
                    &stack.scratch.path().join("log"),
                );
                let after = View::of(&mount, Walk { foreign: true, without_links: true, ..Walk::default() });
                let [after, before] = [&after, &before].map(plainly);
                after.assert_same(&before, &format!("{:?} {from:?}", form.words));
            }
        }
    });
}

/// A directory that unionfs-fuse hides and that is there again hides those below it; names like its own are a user's in a layer
/// that an overlay wrote.
#[test]
fn a_branch_of_unionfs_fuse_by_hand() {
    bounded(|| {
        let stack = Stack::read_only(2);
        stack.lowers[0].file("d/new", "").file(".unionfs/d_HIDDEN~", "").file(".unionfs/d/new_HIDDEN~", "");
        stack.lowers[0].dir(".unionfs/e_HIDDEN~", 0o755).file(".unionfs/f/g/h_HIDDEN~", "").file("f/g/x", "");
        stack.lowers[0].soft_link("/", ".unionfs/loop").file("a_HIDDEN~", "");
        stack.lowers[1].file("d/old", "").file("e/old", "").file("f/g/h", "").file("a", "");
        let [layer, lower] = [0, 1].map(|at| stack.lowers[at].root());
        for (at, form) in forms().enumerate() {
            let out = stack.scratch.path().join(format!("out{at}"));
            convert(form.words, layer, &out).unwrap();
            let seen = view(&stack.scratch, &[&out, lower], form.options);
            let seen: Vec<_> = seen.objects.keys().map(|path| String::from_utf8(path.clone()).unwrap()).collect();
            assert_eq!(seen.join(" "), " a a_HIDDEN~ d d/new f f/g f/g/x", "{:?}", form.words);
        }
        let (said, _) = {
            stack.lowers[0].whiteout("a");
            refused(&["--marks", "wh"], layer, &stack.scratch.path().join("two"))
        };
        assert!(said.contains("a: ") && said.contains("--from unionfs"), "{said}");
        let out = convert(&["--marks", "wh", "--from", "wh"], layer, &stack.scratch.path().join("wh")).unwrap();
        assert!(out.stat(".unionfs/e_HIDDEN~").is_ok() && out.stat(".wh.a").is_ok());
    });
}

/// What aufs and docker leave in a layer.
#[test]
fn layers_of_aufs_keep_what_they_say() {
    bounded(|| {
        let stack = Stack::read_only(2);
        let layer = &stack.lowers[0];
        layer.file(".wh..wh.aufs", "").hard_link(".wh..wh.aufs", ".wh.gone").hard_link(".wh..wh.aufs", "d/.wh.gone");
        layer.file("one", "linked").hard_link("one", "d/two").dir(".wh..wh.plnk", 0o700).dir(".wh..wh.orph", 0o700);
        layer.hard_link("one", ".wh..wh.plnk/12.34").file(".wh..wh.orph/rest", "orphan");
        layer.file("e/.wh..wh..opq", "").file("e/new", "");
        stack.lowers[1].file("gone", "").file("d/gone", "").file("d/kept", "").file("e/old", "").file("one", "old");
        let [layer, lower] = [0, 1].map(|at| stack.lowers[at].root());
        let before = view(&stack.scratch, &[layer, lower], "");
        for (at, form) in forms().enumerate() {
            let out = stack.scratch.path().join(format!("out{at}"));
            let made = convert(form.words, layer, &out).unwrap();
            let seen = view(&stack.scratch, &[&out, lower], form.options);
            let paths: Vec<_> = seen.objects.keys().map(|path| String::from_utf8(path.clone()).unwrap()).collect();
            assert_eq!(paths.join(" "), " d d/kept d/two e e/new one", "{:?}", form.words);
            let [mut seen, mut before] = [&seen, &before].map(plainly);
            // The link that is not seen is gone.
            [&mut seen, &mut before].into_iter().for_each(|view| view.same.clear());
            seen.assert_same(&before, &format!("{:?}", form.words));
            let [one, two] = ["one", "d/two"].map(|name| made.stat(name).unwrap());
            assert_eq!((one.st_ino, one.st_nlink), (two.st_ino, 2), "{:?}", form.words);
            let rest = made.names("").unwrap().into_iter().filter(|name| name.starts_with(".wh..wh.")).count();
            assert_eq!(rest, 0, "{:?}", made.names(""));
        }
    });
}

/// Layers that others wrote, in each form.
#[test]
fn layers_of_the_kernel_and_of_fuse_overlayfs_show_the_same() {
    within(600, || {
        let test = |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
            for writer in writers() {
                let stack = build(&plan(things, false));
                {
                    let Some(live) = writer.mount(&stack) else { continue };
                    let mut real = Real::new(live.tree());
                    for op in ops {
                        let step = op.resolve(&real.known());
                        let _ = real.apply(&step);
                    }
                }
                let lowers = stack.lowers.iter().map(|layer| layer.root());
                let layers: Vec<&Path> = std::iter::once(stack.upper().root()).chain(lowers).collect();
                let before = view(&stack.scratch, &layers, "");
                compare(&stack.scratch, &layers, &before, true).map_err(|why| format!("{writer:?}: {why}"))?;
            }
            Ok(())
        };
        let drawn = (things(), changes(20));
        let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, false));
        model::check(4, 231, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

/// Another program that writes layers.
#[derive(Clone, Copy, Debug)]
enum Writer {
    Kernel(&'static str),
    FuseOverlayfs(&'static str),
}

enum Live {
    Kernel(Kernel),
    Other(Mount),
}

impl Live {
    fn tree(&self) -> &Tree {
        match self {
            Live::Kernel(kernel) => kernel,
            Live::Other(mount) => mount,
        }
    }
}

fn writers() -> Vec<Writer> {
    let kernels: &[_] = match who() {
        Who::Root => &["redirect_dir=on,index=on,metacopy=on", "userxattr"],
        Who::Namespace => &["userxattr"],
        Who::User => &[],
    };
    let others = FUSE_OVERLAYFS.into_iter().filter(|program| Path::new(program).exists());
    kernels.iter().copied().map(Writer::Kernel).chain(others.map(Writer::FuseOverlayfs)).collect()
}

impl Writer {
    fn mount(self, stack: &Stack) -> Option<Live> {
        let layers = stack.layer_options("work");
        match self {
            Self::Kernel(options) => Kernel::with(&format!("{layers},{options}"), &stack.merged).ok().map(Live::Kernel),
            Self::FuseOverlayfs(program) => {
                let log = stack.scratch.path().join("log");
                Mount::by(program.into(), &layers, &stack.merged, &log).ok().map(Live::Other)
            }
        }
    }
}

/// Owners in attributes stay in attributes.
#[test]
fn owners_in_attributes_stay_what_they_are() {
    bounded(|| {
        let option = "xattr_permissions=2";
        let stack = Stack::new(1).option(option);
        stack.lowers[0].file("a", "x").file("d/b", "x").file("gone", "");
        let mut mount = stack.mount();
        mount.write("new", "x").unwrap();
        mount.symlink("new", "link").unwrap();
        mount.chmod("d/b", 0o600).unwrap();
        mount.unlink("gone").unwrap();
        if who() == Who::Root {
            mount.chown("new", 7, 8).unwrap();
        }
        mount.unmount();
        let layers = [stack.upper().root(), stack.lowers[0].root()];
        let before = view(&stack.scratch, &layers, option);
        for (at, form) in forms().enumerate() {
            let out = stack.scratch.path().join(format!("out{at}"));
            convert(&[form.words, &flat(&layers[1..])].concat(), layers[0], &out).unwrap();
            let comma = if form.options.is_empty() { "" } else { "," };
            let options = format!("{}{comma}{option}", form.options);
            view(&stack.scratch, &[&out, layers[1]], &options).assert_same(&before, &format!("{:?}", form.words));
        }
    });
}
