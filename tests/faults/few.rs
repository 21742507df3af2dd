//! The daemon may open nothing any more.

use std::process::Command;

use crate::common::stack::Layer;
use crate::common::systems::run as program;
use crate::common::*;
use crate::table::{DIRS, Layers, failed, fill, run, run_again, run_blindly};

fn may_open(mount: &Mount, files: &str) {
    let pid = mount.pid().unwrap().as_raw_nonzero().to_string();
    program("util-linux", Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}:")])).unwrap();
}

#[test]
fn a_daemon_without_a_descriptor_left_says_so_and_goes_on_when_it_has_some() {
    within(60, || {
        let scratch = Scratch::in_memory();
        let lower = Layer::new(scratch.dir("lower"));
        fill(&lower);
        let layers = Layers::new(lower.root(), scratch.path(), &scratch, "plyfs");
        let mount = layers.mount();
        let before = View::of(&mount, Walk::default());
        may_open(&mount, "3");
        let done = run_blindly(&mount, DIRS[0]);
        let refused = failed(&done);
        may_open(&mount, "1024");
        for (name, done) in &done {
            assert!(matches!(done, Ok(()) | Err(Errno::MFILE)), "{name}: {done:?}");
        }
        // What needs a copy-up needs a descriptor.
        assert!(refused.len() >= 10, "{refused:?}");
        if refused.len() == done.len() {
            View::of(&mount, Walk::default()).assert_same(&before, "when it has some");
        }
        layers.assert_clean("afterwards");
        run_again(&mount, DIRS[0], &done);
        assert!(failed(&run(&mount, DIRS[1])).is_empty());
    });
}
