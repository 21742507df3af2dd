//! Many clients at once.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Signal, kill_process};

use crate::common::mount::wait_until;
use crate::common::worker::{Worker, layers};
use crate::common::*;
use crate::{scale, ways};

/// What the daemon has counted of these requests.
fn counted(mount: &Mount, times: usize, wanted: &[&str]) -> Vec<u64> {
    kill_process(mount.pid().unwrap(), Signal::USR1).unwrap();
    let lines = |text: &str| text.lines().filter(|line| line.contains("requests:")).count();
    assert!(wait_until(|| lines(&mount.messages()) > times), "the daemon does not answer");
    let text = mount.messages();
    let line = text.lines().rfind(|line| line.contains("requests:")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let one = |name: &&str| words.windows(2).find(|pair| pair[0] == *name).map_or(0, |pair| pair[1].parse().unwrap());
    wanted.iter().map(one).collect()
}

/// RELEASE is a background request: if those could starve, files would stay open.
#[test]
fn every_open_of_256_threads_is_released_and_others_are_served_meanwhile() {
    within(240, || {
        for way in ways().into_iter().filter(|way| *way != "io=stateless") {
            let mut stack = crate::stack(1);
            stack.options = vec![way.into()];
            for i in 0..64 {
                stack.lowers[0].file(&format!("f{i}"), format!("{i}"));
            }
            let mount = stack.mount();
            let (deadline, slowest) = (Instant::now() + Duration::from_secs(scale().min(20)), AtomicU64::new(0));
            scope(|scope| {
                for thread in 0..256 {
                    let mount = &*mount;
                    scope.spawn(move || {
                        for n in 0.. {
                            let path = format!("f{}", (thread + n) % 64);
                            let flags = if n % 3 == 0 { OFlags::RDWR } else { OFlags::RDONLY };
                            drop(mount.open(path, flags).unwrap());
                            if Instant::now() > deadline {
                                break;
                            }
                        }
                    });
                }
                while Instant::now() < deadline {
                    let start = Instant::now();
                    assert!(mount.stat(format!("absent{:?}", start)).is_err());
                    slowest.fetch_max(start.elapsed().as_millis() as u64, Ordering::Relaxed);
                    sleep(Duration::from_millis(5));
                }
            });
            let mut times = 0;
            let mut both = Vec::new();
            let even = wait_until(|| {
                both = counted(&mount, times, &["OPEN", "RELEASE"]);
                times += 1;
                both[0] == both[1]
            });
            println!("{way}: {} opens, {} releases, the slowest lookup beside {slowest:?} ms", both[0], both[1]);
            assert!(even && both[0] > 256, "{way}: {both:?}");
            assert!(slowest.into_inner() < 5000);
        }
    });
}

/// Eight threads make and remove names in one directory that two others list all the time.
#[test]
fn a_large_directory_under_eight_threads_is_what_the_model_says() {
    within(900, || {
        let entries = (3000 * scale() as usize).min(100_000);
        let stack = crate::stack(1);
        let name = |i: usize| format!("d/name-{i:06}");
        stack.lowers[0].dir("d", 0o755);
        (0..entries).for_each(|i| stack.lowers[0].write(name(i), "").unwrap());
        let mut mount = stack.mount();
        let over = AtomicBool::new(false);
        let start = Instant::now();
        let made: Vec<BTreeSet<usize>> = scope(|scope| {
            let mount = &*mount;
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let names = mount.names("d").unwrap();
                        let once: BTreeSet<&String> = names.iter().collect();
                        assert_eq!(once.len(), names.len(), "a name twice");
                        // Nobody touches every eleventh.
                        let stay =
                            (0..entries).step_by(11).filter(|i| once.contains(&name(*i)[2..].to_owned())).count();
                        assert_eq!(stay, entries.div_ceil(11), "a name that stays is missing");
                    }
                });
            }
            let workers: Vec<_> = (0..8)
                .map(|worker| {
                    scope.spawn(move || {
                        let mut there: BTreeSet<usize> = (0..entries).filter(|i| i % 8 == worker).collect();
                        let mine: Vec<usize> = there.iter().copied().filter(|i| i % 11 != 0).collect();
                        for (round, i) in mine.iter().chain(&mine[..mine.len() / 2]).enumerate() {
                            if there.remove(i) {
                                mount.unlink(name(*i)).unwrap();
                            } else {
                                mount.write(name(*i), "").unwrap();
                                there.insert(*i);
                            }
                            if round % 4 == 0 {
                                let new = entries + worker + 8 * round;
                                mount.write(name(new), "").unwrap();
                                there.insert(new);
                            }
                        }
                        there
                    })
                })
                .collect();
            let made = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
            over.store(true, Ordering::Relaxed);
            made
        });
        let expected: BTreeSet<String> = made.into_iter().flatten().map(|i| name(i)[2..].to_owned()).collect();
        println!("{entries} entries, 8 threads: {:?}, {} names left", start.elapsed(), expected.len());
        let seen = |mount: &Mount| mount.names("d").unwrap().into_iter().collect::<BTreeSet<String>>();
        assert!(seen(&mount) == expected, "live");
        mount.remount();
        assert!(seen(&mount) == expected, "after a remount");
    });
}

/// Run by [`sixty_four_processes_then_the_model`]: one of its clients, which at its end says what it remembers.
#[test]
#[ignore = "run by others"]
fn client() {
    let Some(told) = std::env::var_os("PLYFS_LOAD_CLIENT") else { return };
    let told = told.into_string().unwrap();
    let [root, number, seconds, result] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    let tree = Tree::new(root);
    let mut worker = Worker::new(&tree, number.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
    let mut steps = 0u64;
    while Instant::now() < deadline {
        worker.step();
        steps += 1;
    }
    worker.check_all();
    let lines = worker.files.iter().map(|(path, content)| format!("{path} {}\n", view::fingerprint(content)));
    std::fs::write(result, lines.collect::<String>() + &format!("{steps}")).unwrap();
}

#[test]
fn sixty_four_processes_then_the_model() {
    let seconds = env_number("PLYFS_STRESS_SECONDS", 10);
    within(seconds + 400, move || {
        const CLIENTS: u64 = 64;
        let stack = crate::stack(2);
        layers(&stack, CLIENTS);
        let lowers: Vec<View> = stack.lowers.iter().map(|l| view::layer(l.root())).collect();
        let mut mount = stack.mount();
        let results = stack.scratch.dir("results");
        let client = |number: u64| {
            let told =
                format!("{}|{number}|{seconds}|{}", stack.merged.display(), results.join(number.to_string()).display());
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "crowds::client", "--ignored", "--nocapture"]).env("PLYFS_LOAD_CLIENT", told);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let clients: Vec<Child> = (0..CLIENTS).map(client).collect();
        for (number, client) in clients.into_iter().enumerate() {
            let out = client.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "client {number}: {said}");
        }
        let (mut model, mut steps) = (BTreeMap::new(), 0);
        for number in 0..CLIENTS {
            let text = std::fs::read_to_string(results.join(number.to_string())).unwrap();
            for line in text.lines() {
                match line.split_once(' ') {
                    Some((path, print)) => drop(model.insert(path.to_owned(), print.parse::<u64>().unwrap())),
                    None => steps += line.parse::<u64>().unwrap(),
                }
            }
        }
        println!("{CLIENTS} processes, {seconds} s: {steps} operations, {} files", model.len());
        let compare = |mount: &Mount, when: &str| {
            for (path, print) in &model {
                let content = mount.read(path).unwrap_or_else(|e| panic!("{when}: {path}: {e:?}"));
                assert_eq!(view::fingerprint(&content), *print, "{when}: {path}");
            }
            let shared = mount.names("shared").unwrap();
            let expected: Vec<&str> = model.keys().filter_map(|path| path.strip_prefix("shared/")).collect();
            assert_eq!(shared, expected, "{when}: the shared directory");
        };
        compare(&mount, "live");
        let before = View::of(&mount, Walk::default());
        before.assert_sound();
        mount.remount();
        compare(&mount, "after a remount");
        View::of(&mount, Walk::default()).assert_same(&before, "after the remount (after, before)");
        for (layer, before) in stack.lowers.iter().zip(&lowers) {
            view::layer(layer.root()).assert_same(before, "a lower layer (after, before)");
        }
    });
}
