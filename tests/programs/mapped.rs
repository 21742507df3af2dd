//! A database as LMDB is built: pages of a shared mapping, copied on write, and two meta pages that take turns. A commit
//! is its pages and their table, msync, the meta page, msync.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::ftruncate;

use crate::common::view::fingerprint;
use crate::common::{SharedMap, Stack, within};
use crate::kills::{Program, kills, survives};

const PAGE: usize = 4096;
/// What the database holds: slots of a page each.
const SLOTS: usize = 200;
/// Pages of the file at first: it grows.
const PAGES: usize = 1024;
/// Slots that a commit changes.
const CHANGED: u64 = 7;

/// Where the process of the writer finds its work: the database, the file to acknowledge in, and the last commit.
const WORK: &str = "PLYFS_MAPPED";

/// A page: its checksum, what it is, the commit that wrote it, and words.
fn page(what: u64, commit: u64, words: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut page: Vec<u8> = [what, commit].into_iter().chain(words).flat_map(u64::to_le_bytes).collect();
    page.resize(PAGE - 8, 0);
    [fingerprint(&page).to_le_bytes().to_vec(), page].concat()
}

fn word(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(page[at * 8..at * 8 + 8].try_into().unwrap())
}

/// The words of a page that is whole and what it should be: the commit first.
fn read(page: &[u8], what: u64) -> Result<Vec<u64>, String> {
    if word(page, 0) != fingerprint(&page[8..]) {
        return Err("has a wrong checksum".into());
    }
    if word(page, 1) != what {
        return Err(format!("is {:x}, not {what:x}", word(page, 1)));
    }
    Ok((2..PAGE / 8).map(|at| word(page, at)).collect())
}

const META: u64 = 1 << 32;
const TABLE: u64 = 1 << 33;

/// The slots that a commit changes.
fn slots_of(commit: u64) -> impl Iterator<Item = usize> {
    (0..CHANGED).map(move |i| ((commit * 31 + i * i * 17 + i) % SLOTS as u64) as usize)
}

fn data(slot: usize, commit: u64) -> Vec<u8> {
    let step = commit.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ slot as u64;
    page(slot as u64, commit, (1..400).map(|i| step.wrapping_mul(i)))
}

/// The last commit of the database: its number and its table of pages.
fn last(pages: &dyn Fn(u64) -> Vec<u8>) -> Result<(u64, Vec<u64>), String> {
    let meta = |n| read(&pages(n), META).ok().map(|words| (words[0], words[1]));
    let (commit, at) = meta(0).max(meta(1)).ok_or("no meta page is whole")?;
    let table = read(&pages(at), TABLE).map_err(|why| format!("the table of commit {commit} {why}"))?;
    if table[0] != commit {
        return Err(format!("the table is of commit {}, not {commit}", table[0]));
    }
    let mut used = table[1..=SLOTS].to_vec();
    used.push(at);
    Ok((commit, used))
}

/// The writer: commits until the mount is dead.
fn write(database: &Path, acked: &Path) {
    let file = File::options().read(true).write(true).open(database).unwrap();
    let mut pages = file.metadata().unwrap().len() as usize / PAGE;
    let mut map = SharedMap::new(&file, pages * PAGE, true);
    let (mut commit, mut used) = last(&|n| map.get(n as usize * PAGE, PAGE)).unwrap();
    loop {
        commit += 1;
        if commit % 50 == 0 {
            pages += 16;
            ftruncate(&file, (pages * PAGE) as u64).unwrap();
            map = SharedMap::new(&file, pages * PAGE, true);
        }
        // All but those of the last commit, which stands until this one does. From another place each time.
        let free = (2..pages as u64).cycle().skip(commit as usize * 97 % pages).filter(|n| !used.contains(n));
        let mut free = free.collect_first(CHANGED as usize + 1);
        let mut next = used.clone();
        for slot in slots_of(commit) {
            let at = free.pop().unwrap();
            map.put(at as usize * PAGE, &data(slot, commit));
            next[slot] = at;
        }
        let at = free.pop().unwrap();
        next[SLOTS] = at;
        map.put(at as usize * PAGE, &page(TABLE, commit, next[..SLOTS].iter().copied()));
        map.sync().unwrap();
        map.put((commit % 2) as usize * PAGE, &page(META, commit, [at].into_iter()));
        map.sync().unwrap();
        used = next;
        let new = acked.with_extension("new");
        std::fs::write(&new, commit.to_string()).unwrap();
        std::fs::rename(new, acked).unwrap();
    }
}

trait First {
    fn collect_first(self, n: usize) -> Vec<u64>;
}

impl<I: Iterator<Item = u64>> First for I {
    /// The first `n` that differ.
    fn collect_first(self, n: usize) -> Vec<u64> {
        let mut found = Vec::new();
        for page in self {
            if !found.contains(&page) {
                found.push(page);
            }
            if found.len() == n {
                break;
            }
        }
        found
    }
}

struct Mapped;

impl Program for Mapped {
    fn load(&mut self, root: &Path, acked: &Path, _: u64) -> Vec<Command> {
        // A store to a mapping of a dead mount is SIGBUS: not in this process.
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "mapped::the_process_that_writes", "--nocapture"]);
        command.env(WORK, format!("{}:{}", root.join("db/pages").display(), acked.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        vec![command]
    }

    fn check(&mut self, root: &Path) -> Result<u64, String> {
        let bytes = std::fs::read(root.join("db/pages")).map_err(|error| error.to_string())?;
        let pages = |n: u64| bytes[n as usize * PAGE..][..PAGE].to_vec();
        let (commit, table) = last(&pages)?;
        for (slot, at) in table[..SLOTS].iter().enumerate() {
            let since = (1..=commit).rev().find(|n| slots_of(*n).any(|s| s == slot)).unwrap_or(0);
            let found = pages(*at);
            read(&found, slot as u64).map_err(|why| format!("commit {commit}: slot {slot} {why}"))?;
            if found != data(slot, since) {
                return Err(format!("commit {commit}: slot {slot} is not what commit {since} has written"));
            }
        }
        Ok(commit)
    }
}

/// Not a test: the writer, where [`Mapped`] starts it.
#[test]
fn the_process_that_writes() {
    let Ok(work) = std::env::var(WORK) else { return };
    let (database, acked) = work.split_once(':').unwrap();
    write(&PathBuf::from(database), &PathBuf::from(acked));
}

#[test]
fn a_database_of_mapped_pages_survives_kills() {
    within(60 + 20 * kills(), || {
        let stack = Stack::in_memory(1);
        let mut bytes = page(META, 0, [2].into_iter());
        bytes.extend(vec![0; PAGE]);
        bytes.extend(page(TABLE, 0, (0..SLOTS as u64).map(|slot| slot + 3)));
        (0..SLOTS).for_each(|slot| bytes.extend(data(slot, 0)));
        bytes.resize(PAGES * PAGE, 0);
        stack.lowers[0].file("db/pages", bytes);
        survives(&stack, &mut Mapped);
    });
}
