//! `plyfs layer squash` of what stores of normal users have: marks in `user.*`, owners in attributes, and layers of
//! fuse-overlayfs, in random histories.

use std::path::Path;
use std::process::Command;

use proptest::strategy::Strategy;

use crate::common::*;
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};
use crate::squash::{bare_root, look};

const FUSE_OVERLAYFS: &str = "/usr/bin/fuse-overlayfs";

/// A way in which layers of users are written.
#[derive(Clone, Copy, Debug)]
struct Store {
    /// What mounts them; empty: plyfs.
    writer: &'static str,
    options: &'static str,
    /// The words of `squash` that root needs.
    words: &'static [&'static str],
    seed: u64,
}

const STORES: [Store; 4] = [
    Store { writer: "", options: "userxattr", words: &["--userxattr"], seed: 241 },
    Store { writer: "", options: "xattr_permissions=2", words: &[], seed: 242 },
    Store { writer: FUSE_OVERLAYFS, options: "", words: &[], seed: 243 },
    Store { writer: FUSE_OVERLAYFS, options: "xattr_permissions=2", words: &[], seed: 244 },
];

impl Store {
    fn mount(&self, stack: &Stack) -> Result<Mount, String> {
        let program = if self.writer.is_empty() { mount::binary() } else { self.writer.into() };
        let options = join(&stack.layer_options("work"), self.options);
        Mount::by(program, &options, &stack.merged, &stack.scratch.path().join("log"))
    }

    /// What a read-only mount by plyfs shows of layers.
    fn view(&self, scratch: &Scratch, layers: &[&Path]) -> View {
        let lowers: Vec<_> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let options = join(&format!("lowerdir={}", lowers.join(":")), self.options);
        look(&Mount::with(&options, &scratch.dir("view"), &scratch.path().join("log")))
    }

    fn squash(&self, words: &[&str], layers: &[&Path], out: &Path) -> Result<(), String> {
        let own = if who() == Who::Root { self.words } else { &[] };
        let mut command = Command::new(mount::binary());
        let done = command.args(["layer", "squash"]).args(own).args(words).args(layers).arg(out).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        if done.status.success() { Ok(()) } else { Err(format!("squash {words:?} {layers:?}: {said}")) }
    }

    /// Squashes several parts of a stack: the rest and the squash show what the stack did.
    fn compare(&self, stack: &Stack) -> Result<(), String> {
        let scratch = &stack.scratch;
        let lowers = stack.lowers.iter().map(|layer| layer.root());
        let layers: Vec<&Path> = std::iter::once(stack.upper().root()).chain(lowers).collect();
        let before = self.view(scratch, &layers);
        let all = layers.len();
        for (from, to, words) in [(0, 1, &[][..]), (0, 2, &[]), (1, all, &[]), (0, all, &["--bottom"])] {
            let out = scratch.path().join(format!("out{from}{to}{}", words.concat()));
            self.squash(words, &layers[from..to], &out)?;
            let after: Vec<&Path> = [&layers[..from], &[&out], &layers[to..]].concat();
            let [mut seen, mut before] = [self.view(scratch, &after), before.clone()];
            [&mut seen, &mut before].into_iter().for_each(bare_root);
            if let Some(difference) = seen.difference(&before) {
                return Err(format!("{self:?}, {from}..{to} {words:?}:\n{difference}"));
            }
        }
        Ok(())
    }
}

fn join(one: &str, two: &str) -> String {
    if two.is_empty() { one.to_owned() } else { format!("{one},{two}") }
}

/// Whether a store can be written here.
fn is_there(store: &Store) -> bool {
    let there = match store.writer {
        "" => store.options == "userxattr" || mount::takes(store.options),
        writer => Path::new(writer).exists(),
    };
    there && store.mount(&Stack::new(1)).is_ok()
}

#[test]
fn a_squash_of_a_store_of_users_shows_the_same() {
    within(900, || {
        for store in STORES {
            if !is_there(&store) {
                say_skipped(&format!("no {store:?} here"));
                continue;
            }
            let test = move |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
                let stack = build(&plan(things, false));
                let mut mount = store.mount(&stack)?;
                let mut real = Real::new(&mount);
                for op in ops {
                    let step = op.resolve(&real.known());
                    let _ = real.apply(&step);
                }
                drop(real);
                mount.unmount();
                drop(mount);
                store.compare(&stack)
            };
            let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, false));
            model::check(6, store.seed, (things(), changes(25)).boxed(), test, words);
        }
    });
}
