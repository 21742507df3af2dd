//! A client that does this and that to files of its own, some of them in a directory that it shares with others, and
//! compares each with what it remembers.

use std::collections::BTreeMap;

use rustix::fs::{OFlags, RenameFlags};

use super::{Errno, Stack, Tree, env_number, lacks, tree};

/// Lower files of each client.
const LOWER_FILES: u64 = 40;

/// xorshift64: repeatable, and none is shared between threads.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn lower_content(thread: u64, file: u64) -> Vec<u8> {
    let len = [0, 100, 5000, 200_000][(file % 4) as usize];
    (0..len).map(|i: usize| (i as u64 + thread * 7 + file) as u8).collect()
}

/// What clients from 0 on begin with, in the first two lower layers.
pub fn layers(stack: &Stack, clients: u64) {
    for t in 0..clients {
        for f in 0..LOWER_FILES {
            stack.lowers[(f % 2) as usize].file(&lower_path(t, f), lower_content(t, f));
        }
        stack.lowers[0].file(&format!("t{t}/sub/x"), "").file(&format!("t{t}/again/old"), "old");
        stack.lowers[1].file(&format!("t{t}/again/older/x"), "old");
    }
}

fn lower_path(client: u64, file: u64) -> String {
    if file.is_multiple_of(5) { format!("shared/t{client}-{file}") } else { format!("t{client}/n{file}") }
}

/// One client's files by path, and what is in them.
pub struct Worker<'a> {
    tree: &'a Tree,
    number: u64,
    random: Random,
    /// What it remembers.
    pub files: BTreeMap<String, Vec<u8>>,
    made: u64,
}

impl<'a> Worker<'a> {
    /// The client of this number on what [`layers`] has made.
    pub fn new(tree: &'a Tree, number: u64) -> Self {
        let files = (0..LOWER_FILES).map(|f| (lower_path(number, f), lower_content(number, f)));
        let random = Random(env_number("PLYFS_TEST_SEED", 1) * 0x9e37_79b9 + number + 1);
        Worker { tree, number, random, files: files.collect(), made: 0 }
    }

    /// Compares all files.
    pub fn check_all(&self) {
        self.files.keys().for_each(|path| self.check(path));
    }

    fn some_file(&mut self) -> Option<String> {
        let n = self.random.below(self.files.len().max(1));
        self.files.keys().nth(n).cloned()
    }

    /// A new name, in a directory of its own or in the shared one.
    fn new_name(&mut self) -> String {
        self.made += 1;
        let (t, n) = (self.number, self.made % 60);
        match self.random.below(3) {
            0 => format!("shared/t{t}-{n}"),
            1 => format!("t{t}/sub/n{n}"),
            _ => format!("t{t}/n{n}"),
        }
    }

    fn check(&self, path: &str) {
        let got = self.tree.read(path).unwrap_or_else(|e| panic!("{path}: {e:?}"));
        let want = &self.files[path];
        let wrong = got.iter().zip(want).position(|(a, b)| a != b);
        assert!(got == *want, "{path}: {} bytes instead of {}, first wrong at {wrong:?}", got.len(), want.len());
    }

    /// Does one thing.
    pub fn step(&mut self) {
        let bytes: Vec<u8> = (0..self.random.below(20_000)).map(|_| self.random.next() as u8).collect();
        let action = self.random.below(14);
        if action == 0 {
            let path = self.new_name();
            self.tree.write(&path, &bytes).unwrap();
            self.files.insert(path, bytes);
            return;
        }
        if action == 1 {
            return self.directories();
        }
        let Some(path) = self.some_file() else { return };
        match action {
            2 | 3 => {
                let at = self.random.below(30_000);
                self.tree.pwrite(&path, at as u64, &bytes).unwrap();
                let content = self.files.get_mut(&path).unwrap();
                if !bytes.is_empty() {
                    content.resize(content.len().max(at + bytes.len()), 0);
                    content[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
            4 => {
                self.tree.append(&path, &bytes).unwrap();
                self.files.get_mut(&path).unwrap().extend(bytes);
            }
            5 => {
                let size = self.random.below(30_000);
                self.tree.truncate(&path, size as u64).unwrap();
                self.files.get_mut(&path).unwrap().resize(size, 0);
            }
            6 | 7 => {
                let to = self.new_name();
                self.tree.rename(&path, &to).unwrap();
                let content = self.files.remove(&path).unwrap();
                self.files.insert(to, content);
            }
            8 => {
                self.tree.unlink(&path).unwrap();
                self.files.remove(&path);
                assert!(!self.tree.has(&path), "{path} is still there");
            }
            9 => self.tree.chmod(&path, [0o600, 0o644, 0o640][self.random.below(3)]).unwrap(),
            10 => self.exchange(path),
            11 => {
                let fd = self.tree.open(&path, OFlags::RDWR).unwrap();
                self.tree.unlink(&path).unwrap();
                assert!(tree::read_all(&fd).unwrap() == self.files.remove(&path).unwrap(), "{path} unlinked and open");
            }
            _ => self.check(&path),
        }
    }

    fn exchange(&mut self, path: String) {
        let other = self.some_file().unwrap();
        let done = self.tree.rename_with(&path, &other, RenameFlags::EXCHANGE);
        if done == Err(Errno::INVAL) && lacks("rename-flags") {
            return;
        }
        done.unwrap();
        let (a, b) = (self.files[&path].clone(), self.files[&other].clone());
        self.files.insert(path, b);
        self.files.insert(other, a);
    }

    /// A directory with lower parts, removed and made again; and a listing of what all change.
    fn directories(&mut self) {
        let dir = format!("t{}/again", self.number);
        if self.tree.has(&dir) {
            self.tree.remove_all(&dir).unwrap();
        }
        self.tree.mkdir(&dir, 0o755).unwrap();
        assert_eq!(self.tree.names(&dir).unwrap(), [""; 0]);
        self.tree.write(format!("{dir}/f"), "again").unwrap();
        let mine = format!("t{}-", self.number);
        let shared = self.tree.names("shared").unwrap();
        let listed: Vec<_> = shared.iter().filter(|n| n.starts_with(&mine)).collect();
        let want: Vec<_> = self.files.keys().filter_map(|p| p.strip_prefix("shared/")).collect();
        assert_eq!(listed, want, "the shared directory");
    }
}
