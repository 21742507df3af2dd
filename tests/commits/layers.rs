//! Lower layers join a live view, and go: what is seen is what a fresh mount of the same layers shows.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::stack::Layer;
use crate::common::view::Numbers;
use crate::common::*;
use crate::{about, plyfs};

/// A view over two of four layers.
pub struct Joined {
    pub stack: Stack,
    pub layers: [Layer; 4],
    pub mount: Mount,
    /// Those of the view, the top one first.
    pub order: Vec<usize>,
}

pub fn view(tree: &Tree) -> View {
    View::of(tree, Walk { numbers: Numbers::NotJudged, ..Walk::default() })
}

fn without_links(tree: &Tree) -> View {
    View::of(tree, Walk { foreign: true, without_links: true, ..Walk::default() })
}

pub fn sh(at: &Path, script: &str) {
    let done = Command::new("sh").args(["-ec", script]).current_dir(at).status().unwrap();
    assert!(done.success(), "{script}");
}

impl Joined {
    /// Layers 2 and 3 are mounted.
    pub fn new(options: &[&str]) -> Self {
        let mut stack = Stack::new(0);
        stack.options = options.iter().map(|&option| option.to_owned()).collect();
        let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
        fill(&layers);
        Self::over(stack, layers, vec![2, 3])
    }

    pub fn over(mut stack: Stack, layers: [Layer; 4], order: Vec<usize>) -> Self {
        stack.lowers = order.iter().map(|&n| Layer::new(layers[n].root().to_owned())).collect();
        layers.iter().chain(&stack.upper).for_each(|layer| layer.age());
        let mount = stack.mount();
        Self { stack, layers, mount, order }
    }

    pub fn at(&self, n: usize) -> &str {
        self.layers[n].root().to_str().unwrap()
    }

    pub fn add(&mut self, n: usize, at: usize) -> Result<String, String> {
        let mut args = vec!["layer", "add", self.mount.root().to_str().unwrap(), self.at(n)];
        if at == self.order.len() {
            args.push("--bottom");
        } else if at > 0 {
            args.extend(["--below", self.at(self.order[at - 1])]);
        }
        let said = plyfs(&args)?;
        self.order.insert(at, n);
        Ok(said)
    }

    pub fn remove(&mut self, n: usize) -> Result<String, String> {
        let said = plyfs(&["layer", "remove", self.mount.root().to_str().unwrap(), self.at(n)])?;
        self.order.retain(|&other| other != n);
        Ok(said)
    }

    fn lowerdir(&self) -> String {
        self.order.iter().map(|&n| self.at(n)).collect::<Vec<_>>().join(":")
    }

    /// The upper layer as the topmost of a mount that nobody writes, and the commits below it.
    fn changed(&self) -> Vec<String> {
        let mut changed: Vec<PathBuf> = self.stack.upper.iter().map(|upper| upper.root().to_owned()).collect();
        let commits = self.stack.scratch.path().join("work/commits");
        let mut numbers: Vec<u64> = fs::read_dir(commits.as_path())
            .map(|all| all.filter_map(|one| one.unwrap().file_name().to_str()?.parse().ok()).collect())
            .unwrap_or_default();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        changed.extend(numbers.iter().map(|number| commits.join(format!("{number}/layer"))));
        changed.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    /// The view is that of a fresh mount of these layers, by plyfs and by the kernel.
    pub fn check(&self, what: &str) {
        self.checked(what).unwrap_or_else(|why| panic!("{why}"));
    }

    /// As [`Joined::check`]; what differs.
    pub fn checked(&self, what: &str) -> Result<(), String> {
        let is = without_links(&self.mount);
        let lowers = [self.changed(), vec![self.lowerdir()]].concat().join(":");
        let (at, log) = (self.stack.scratch.dir("fresh"), self.stack.scratch.path().join("log of fresh"));
        let fresh = Mount::with(&format!("lowerdir={lowers}"), &at, &log);
        differs(what, &is, &without_links(&fresh))?;
        drop(fresh);
        // The kernel takes no single layer.
        if who() == Who::Root && lowers.contains(':') && std::env::var_os("PLYFS_TEST_OPTIONS").is_none() {
            let options = format!("lowerdir={lowers},redirect_dir=on,metacopy=on,xino=on");
            let kernel = Kernel::with(&options, &self.stack.scratch.dir("kernel"));
            let kernel = kernel.map_err(|error| format!("{what}: -o {options}: {error}"))?;
            // It lists a whiteout that hides nothing.
            let seen = View { wrong: is.wrong.clone(), ..without_links(&kernel) };
            differs(&format!("{what}, by the kernel"), &is, &seen)?;
        }
        Ok(())
    }

    /// The same of a mount with the upper layer, with all that is seen.
    pub fn check_by_remount(self, what: &str) {
        self.checked_by_remount(what, true).unwrap_or_else(|why| panic!("{why}"));
    }

    /// As [`Joined::check_by_remount`]; what differs. Link counts where `links`.
    pub fn checked_by_remount(mut self, what: &str, links: bool) -> Result<(), String> {
        let seen = |tree: &Tree| {
            let mut seen = view(tree);
            seen.objects.values_mut().filter(|_| !links).for_each(|object| object.nlink = 0);
            seen
        };
        let is = seen(&self.mount);
        let mut said = self.mount.unmount();
        assert!(said.take().is_none_or(|status| status.success()), "{}", self.mount.messages());
        assert!(!self.mount.messages().contains("panic"), "{}", self.mount.messages());
        let lowers = self.order.iter().map(|&n| Layer::new(self.layers[n].root().to_owned())).collect();
        self.stack.lowers = lowers;
        let fresh = self.stack.mount();
        assert!(!fresh.messages().contains("index=off"), "{}", fresh.messages());
        differs(&format!("{what}, after a remount"), &is, &seen(&fresh))
    }
}

pub fn differ(what: &str, is: &View, was: &View) {
    differs(what, is, was).unwrap_or_else(|why| panic!("{why}"));
}

fn differs(what: &str, is: &View, was: &View) -> Result<(), String> {
    let paths = is.objects.keys().chain(was.objects.keys());
    let differs = paths.filter(|path| is.objects.get(*path) != was.objects.get(*path));
    let lines: Vec<_> = differs
        .map(|path| format!("{}: {:?}, not {:?}", path.escape_ascii(), is.objects.get(path), was.objects.get(path)))
        .collect();
    if !lines.is_empty() {
        return Err(format!("{what}:\n{}", lines.join("\n")));
    }
    if is != was {
        return Err(format!("{what}:\n{:?} not {:?}\n{:?} {:?}", is.same, was.same, is.wrong, was.wrong));
    }
    Ok(())
}

/// Four layers with all kinds of names in common.
fn fill(layers: &[Layer; 4]) {
    let [one, two, app, base] = layers;
    base.file("f", "base").file("h", "base").file("d/base", "b").file("d/both", "b").file("e/base", "b");
    base.file("g/base", "b").file("low", "low").file("r/x", "x").file("r/deep/y", "y").soft_link("f", "link");
    base.file("data", vec![b'd'; 100_000]).file("gone/a", "a").file("gone/b", "b").hard_link("low", "low2");
    app.file("f", "app").file("d/app", "a").file("d/both", "a").file("app/only", "o").whiteout("h").file("g/app", "a");
    app.dir("q", 0o750).file("q/x", "x").file("script", "#!/bin/sh\necho app\n").perm("script", 0o755);
    one.file("f", "one").file("new", "n").file("d/one", "1").whiteout("d/both").opaque("e").file("e/one", "1");
    one.file("g", "no directory").file("h/i", "now one").file("app/one", "1").file("r/x", "one").file("moved/one", "1");
    one.file("made/one", "1").file("gone/c", "c").whiteout("data").file("link/x", "x").fifo("fifo").file("deep/z", "z");
    two.file("f", "two").file("two/x", "2").whiteout("app").opaque("r").file("r/two", "2").file("low", "another");
    two.dir("d", 0o700).file("q/y", "y").file("e/two", "2").soft_link("nowhere", "new").file("made/two", "2");
}

/// What is done in the view before layers come and go.
const CHANGES: &[&str] = &[
    "true",
    "echo changed > f; echo new > own; mkdir made; echo m > made/m",
    "rm f; rm -r gone; rm d/both; rm link",
    "rm -r d; mkdir d; echo again > d/again; rm -r gone; echo no > gone",
    "mv r moved",
    "mv r d/r; echo more > d/r/deep/more; mkdir r; echo r > r/r",
    "mv d/app d/renamed; echo x >> d/renamed; mv q app/q; chmod 700 app",
    "mv r s; mv s/deep s/deeper; mv s/deeper deep; chmod 711 deep",
    "touch -d 2001-02-03 d e g; chmod 751 d/base d/app 2> /dev/null; echo x >> d/base; echo x >> d/app",
];

/// Looks at everything, and at much that is not there.
pub fn warm(at: &Path) {
    sh(
        at,
        "find . -type f -exec cat {} + > /dev/null; ls -lR > /dev/null; \
         for d in . d e g r made moved app gone deep; do \
         stat $d/one $d/two $d/new $d/x $d/c fifo two/x h/i link/x 2> /dev/null > /dev/null || true; done",
    );
}

#[test]
fn layers_that_come_and_go_leave_what_a_fresh_mount_shows() {
    within(600, || {
        for commits in [0, 1, 2] {
            for script in CHANGES {
                let joined = Joined::new(&[]);
                for commit in 0..=commits {
                    if commit > 0 {
                        about("commit", joined.mount.root()).unwrap();
                        sh(joined.mount.root(), "echo more > later; rm -f q/x; mkdir -p n; chmod 711 n");
                    } else {
                        sh(joined.mount.root(), &format!("{script}; echo > each"));
                    }
                }
                come_and_go(joined, &format!("{script} ({commits} commits)"));
            }
        }
    });
}

fn come_and_go(mut joined: Joined, what: &str) {
    let at = joined.mount.root().to_owned();
    let first = view(&joined.mount);
    for (step, (n, place)) in
        [(0, 0), (1, 0), (0, 9), (2, 9), (0, 1), (1, 9), (0, 9), (2, 0), (0, 2), (1, 0), (1, 9), (0, 9)]
            .into_iter()
            .enumerate()
    {
        warm(&at);
        let done = if place == 9 { joined.remove(n) } else { joined.add(n, place) };
        done.unwrap_or_else(|why| panic!("{what}: step {step} {n} {place} {:?}: {why}", joined.order));
        joined.check(&format!("{what}: step {step} with {:?}", joined.order));
    }
    assert_eq!(joined.order, [2, 3]);
    differ(&format!("{what}: at the end"), &view(&joined.mount), &first);
    joined.add(0, 1).unwrap();
    joined.check_by_remount(what);
}

/// Changes of a lower file with two names, and what comes and goes then: the layer and its place, 9 for none.
const LINKS: &[(&str, &[(usize, usize)])] = &[
    ("echo changed >> low; ln low low3", &[(0, 0)]),
    ("echo changed >> low; ln low low3", &[(0, 1), (0, 9), (1, 2)]),
    ("echo changed >> low; chmod 640 low2", &[(1, 0)]),
    ("echo changed >> low; cat low2", &[(1, 0), (1, 9)]),
    ("echo l >> low2; rm low", &[(1, 0), (2, 9)]),
    ("echo l >> low2; rm low", &[(3, 9)]),
    ("echo l >> low2", &[(3, 9), (3, 1)]),
    ("echo l >> low2; cat low", &[(3, 9), (3, 0)]),
    ("echo l >> low2; cat low; mv low lower", &[(2, 9)]),
];

#[test]
fn changed_hard_links_are_what_a_mount_with_the_index_shows() {
    within(120, || {
        for (script, steps) in LINKS {
            let mut joined = Joined::new(&[]);
            sh(joined.mount.root(), script);
            for &(n, place) in *steps {
                if script.contains("cat") {
                    warm(joined.mount.root());
                }
                let done = if place == 9 { joined.remove(n) } else { joined.add(n, place) };
                done.unwrap_or_else(|why| panic!("{script}: {n} {place}: {why}"));
            }
            joined.check_by_remount(&format!("{script} {steps:?}"));
        }
    });
}

#[test]
fn a_view_that_nobody_writes_gets_layers_too() {
    within(300, || {
        let mut stack = Stack::new(0);
        stack.upper = None;
        let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
        fill(&layers);
        let mut joined = Joined::over(stack, layers, vec![3]);
        warm(joined.mount.root());
        joined.add(2, 0).unwrap();
        joined.check("two layers");
        come_and_go(joined, "read-only");
    });
}

#[test]
fn open_and_mapped_files_keep_their_layer() {
    within(120, || {
        let mut joined = Joined::new(&[]);
        let root = joined.mount.root().to_owned();
        let mut open = File::open(root.join("app/only")).unwrap();
        warm(&root);
        let why = joined.remove(2).unwrap_err();
        assert!(why.contains("1 file of it is open or mapped: app/only") && why.lines().count() == 1, "{why}");
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "o");
        drop(open);
        let file = File::open(root.join("f")).unwrap();
        let map = SharedMap::new(&file, 4096, false);
        drop(file);
        let why = joined.remove(2).unwrap_err();
        assert!(why.contains("open or mapped: f"), "{why}");
        assert_eq!(map.get(0, 3), b"app");
        drop(map);
        let deleted = File::open(root.join("d/app")).unwrap();
        fs::remove_file(root.join("d/app")).unwrap();
        let why = joined.remove(2).unwrap_err();
        assert!(why.contains("without a name"), "{why}");
        drop(deleted);
        let mut program = Command::new("sh").arg(root.join("script")).stdout(Stdio::null()).spawn().unwrap();
        program.wait().unwrap();
        // Who is in a directory that goes is as after rmdir.
        let mut child = Command::new("sh")
            .args(["-c", "read line; ls"])
            .current_dir(root.join("q"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        joined.remove(2).unwrap();
        joined.check("without the layer");
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(child.wait_with_output().unwrap().stdout, b"");
        joined.add(2, 0).unwrap();
        joined.check("with the layer again");
    });
}

#[test]
fn an_open_file_is_what_it_was_when_a_layer_hides_it() {
    let mut joined = Joined::new(&[]);
    let root = joined.mount.root().to_owned();
    let mut open = File::options().read(true).write(true).open(root.join("f")).unwrap();
    joined.add(0, 0).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), joined.mount.read("f").unwrap()), ("app", b"one".to_vec()));
    open.write_at(b"own", 0).unwrap();
    assert_eq!(joined.mount.read("f").unwrap(), b"one");
    joined.check("a file is open that is hidden");
}

#[test]
fn a_file_whose_data_is_in_the_layer_keeps_it() {
    if who() != Who::Root {
        skip!("metadata alone is copied up by root only");
    }
    let mut joined = Joined::new(&[]);
    let root = joined.mount.root().to_owned();
    joined.layers[2].file("large", vec![b'l'; 300_000]);
    joined.layers[2].file("sub/large", vec![b'l'; 300_000]);
    rustix::fs::sync();
    joined.mount.remount();
    sh(Path::new("/"), "echo 1 > /proc/sys/vm/drop_caches");
    sh(&root, "chmod 600 sub/large; mv sub/large larger");
    joined.layers[0].file("sub/large", "not that");
    // Above the one that has the data, and below it.
    joined.add(0, 0).unwrap();
    assert_eq!(joined.mount.read("larger").unwrap(), vec![b'l'; 300_000]);
    joined.check("the data of one is up");
    sh(&root, "chmod 600 large");
    joined.add(1, 3).unwrap();
    joined.remove(2).unwrap();
    assert_eq!(joined.mount.read("large").unwrap(), vec![b'l'; 300_000]);
    joined.check("the data of both is up");
    joined.add(2, 0).unwrap();
    joined.layers[2].file("third", vec![b'l'; 300_000]);
    joined.layers[3].file("third", "not that, either");
    sh(&root, "chmod 600 third");
    about("commit", &root).unwrap();
    let why = joined.remove(2).unwrap_err();
    assert!(why.contains("commit 1 has changed third, whose data is still in the layers (it would be lost)"), "{why}");
    joined.mount.append("third", b"x").unwrap();
    assert!(joined.remove(2).unwrap_err().contains("commit 1"), "an undo would show it");
    joined.check("the data is where it was");
}

#[test]
fn the_file_system_of_a_layer_that_went_can_be_unmounted() {
    if who() == Who::User {
        skip!("a normal user mounts no tmpfs");
    }
    let mut joined = Joined::new(&[]);
    let at = joined.stack.scratch.dir("tmpfs");
    let Some(mounted) = scratch::Mounted::tmpfs(&at) else { skip!("no tmpfs") };
    let layer = Layer::new(at.join("layer"));
    layer.file("t/f", "t").file("t/g", "g").file("top", "top");
    joined.layers[0] = layer;
    for _ in 0..3 {
        joined.add(0, 1).unwrap();
        warm(joined.mount.root());
        sh(joined.mount.root(), "echo x >> t/f; mkdir -p t/new; chmod 700 t");
        joined.check("with a layer on another file system");
        joined.remove(0).unwrap();
        joined.check("without");
        sh(joined.mount.root(), "rm -rf t");
    }
    drop(mounted);
    let still = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!still.contains(at.to_str().unwrap()), "{still}");
}

#[test]
fn what_cannot_be_right_is_refused_in_one_line() {
    let mut joined = Joined::new(&[]);
    let root = joined.mount.root().to_owned();
    sh(&root, "echo x > x");
    about("commit", &root).unwrap();
    joined.layers[0].opaque("");
    fs::write(joined.stack.scratch.path().join("file"), "").unwrap();
    let (scratch, view) = (joined.stack.scratch.path().to_owned(), root.to_str().unwrap().to_owned());
    let path = |name: &str| scratch.join(name).to_str().unwrap().to_owned();
    let in_view = format!("{view}/d");
    let cases: &[(&[&str], &str)] = &[
        (&["add", &view, &path("layer2")], "the same directory as lowerdir="),
        (&["add", &view, &path("layer3/d")], "lies in lowerdir="),
        (&["add", &view, &path("")], "lies in it"),
        (&["add", &view, &path("upper")], "it is or lies in upperdir"),
        (&["add", &view, &path("work/commits/1/layer")], "it is or lies in workdir"),
        (&["add", &view, &path("file")], "Not a directory"),
        (&["add", &view, &path("nowhere")], "No such file"),
        (&["add", &view, &in_view], "it lies in the view itself"),
        (&["add", &view, &path("layer0")], "its root is opaque"),
        (&["add", &view, &path("layer1"), "--below", &path("layer0")], "no lower layer of the view is"),
        (&["remove", &view, &path("layer1")], "no lower layer of the view is that"),
        (&["remove", &view, &path("upper")], "it is the upper layer"),
        (&["remove", &view, &path("work/commits/1/layer")], "it is a commit (plyfs undo"),
        (&["remove", &path("layer1"), &path("layer2")], "no view of plyfs is mounted there"),
        (&["add", "no-session", &path("layer1")], "No such file"),
    ];
    for (args, expected) in cases {
        let why = plyfs(&[&["layer"], *args].concat()).unwrap_err();
        assert!(why.contains(expected) && why.lines().count() == 1, "{args:?}: {why}");
    }
    let before = about("status", &root).unwrap();
    joined.remove(3).unwrap();
    let why = joined.remove(2).unwrap_err();
    assert!(why.contains("it is the only lower layer"), "{why}");
    joined.add(3, 1).unwrap();
    assert_eq!(about("status", &root).unwrap(), before);
    if who() == Who::Root {
        let (uid, gid) = legs::user();
        let args = ["layer", "add", &view, &path("layer1")].map(str::to_owned);
        let out = as_user(uid, gid, move || Command::new(mount::binary()).args(args).output());
        // Another user may not even enter the view, or the build directory.
        assert!(out.is_ok_and(|out| !out.status.success() || out.stdout.is_empty()) || joined.order == [2, 3]);
    }
    joined.check("nothing has changed");
}

#[test]
fn the_layers_are_told_with_the_view() {
    let mut joined = Joined::new(&[]);
    let root = joined.mount.root().to_owned();
    let said = joined.add(1, 1).unwrap();
    let expected = format!("the next mount needs lowerdir={}\n", joined.lowerdir());
    assert_eq!(said, expected);
    let told = about("status", &root).unwrap();
    let lowers: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("lowerdir")).map(str::trim).collect();
    assert_eq!(lowers, [joined.at(2), joined.at(1), joined.at(3)]);
    let json = plyfs(&["layer", "remove", "--json", root.to_str().unwrap(), joined.at(3)]).unwrap();
    joined.order.retain(|&n| n != 3);
    let layers =
        format!(r#"{{"role":"lower","path":"{}"}},{{"role":"lower","path":"{}"}}]}}"#, joined.at(2), joined.at(1));
    assert!(
        json.starts_with(r#"{"v":1,"layers":[{"role":"upper","path":""#) && json.trim_end().ends_with(&layers),
        "{json}"
    );
    // What asks for the layers gets those of now.
    sh(&root, "rm two/x");
    if who() != Who::Namespace {
        assert_eq!(plyfs(&["diff", "--names", root.to_str().unwrap()]).unwrap(), "two/x\n");
    }
    joined.check("the layers that are told");
}
