//! The merged view as a plain tree in memory: what every step must do, where no other union is there to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::layers::{Kind, Plan, stack_of};
use super::{How, Known, Outcome, Room, SLOTS, Step, Subject, content};
use crate::common::tree::OLD;
use crate::common::view::{Changed, Object, fingerprint};
use crate::common::{View, Walk, Who, who};

type Id = usize;

/// A file's bytes. Copies of a model share them until one changes, and their fingerprint is taken once.
#[derive(Clone, Default)]
pub struct Bytes(Arc<(Vec<u8>, OnceLock<u64>)>);

impl Bytes {
    /// These.
    pub fn new(bytes: Vec<u8>) -> Self {
        Bytes(Arc::new((bytes, OnceLock::new())))
    }

    fn edit(&mut self) -> &mut Vec<u8> {
        if Arc::get_mut(&mut self.0).is_none() {
            *self = Bytes::new(self.0.0.clone());
        }
        let (bytes, known) = Arc::get_mut(&mut self.0).unwrap();
        *known = OnceLock::new();
        bytes
    }

    fn fingerprint(&self) -> u64 {
        *self.0.1.get_or_init(|| fingerprint(&self.0.0))
    }
}

impl Deref for Bytes {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0.0
    }
}

#[derive(Clone)]
struct Node {
    kind: FileType,
    mode: u32,
    owner: (u32, u32),
    data: Bytes,
    target: &'static str,
    xattrs: BTreeMap<&'static str, Vec<u8>>,
    nlink: u64,
    changed: Changed,
    children: BTreeMap<String, Id>,
}

/// A tree; node 0 is the root. Removed nodes stay, as someone may hold them.
#[derive(Clone)]
pub struct Memory {
    nodes: Vec<Node>,
    held: [Option<(Id, bool)>; SLOTS],
}

fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Whether a change of content clears suid and sgid: for all but those with CAP_FSETID in the initial namespace.
fn drops_suid() -> bool {
    who() != Who::Root
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn beneath(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

impl Node {
    fn new(kind: FileType, mode: u32) -> Self {
        Node {
            kind,
            mode,
            owner: ids(),
            data: Bytes::default(),
            target: "",
            xattrs: BTreeMap::new(),
            nlink: 1,
            changed: Changed::Whenever,
            children: BTreeMap::new(),
        }
    }

    fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Data has changed.
    fn touch(&mut self) {
        self.changed = Changed::Whenever;
    }

    /// Data was changed by a user: suid goes, and sgid if it is one for execution.
    fn written(&mut self) {
        self.touch();
        if drops_suid() {
            self.strip_suid();
        }
    }

    fn strip_suid(&mut self) {
        self.mode &= !0o4000;
        if self.mode & 0o010 != 0 {
            self.mode &= !0o2000;
        }
    }

    fn may_write(&self) -> Result<(), Errno> {
        if who() == Who::User && self.mode & 0o200 == 0 { Err(Errno::ACCESS) } else { Ok(()) }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        let data = self.data.edit();
        data.resize(data.len().max(end), 0);
        data[at..end].copy_from_slice(bytes);
        self.written();
    }
}

impl Memory {
    /// The union of these layers under an empty upper.
    pub fn new(plans: &[Plan]) -> Self {
        let mut root = Node::new(FileType::Directory, 0o755);
        root.changed = Changed::At(OLD.tv_sec, OLD.tv_nsec);
        let mut memory = Memory { nodes: vec![root], held: Default::default() };
        memory.merge(plans, "", 0, &mut BTreeMap::new());
        memory
    }

    fn merge(&mut self, plans: &[Plan], dir: &str, id: Id, files: &mut BTreeMap<(usize, String), Id>) {
        let mut seen = BTreeSet::new();
        for i in stack_of(plans, dir) {
            for (path, kind) in &plans[i] {
                let (parent, name) = split(path);
                if parent != dir || !seen.insert(name.to_owned()) || *kind == Kind::Whiteout {
                    continue;
                }
                let first = if let Kind::Again(first) = kind { first } else { path };
                let known = files.get(&(i, first.clone())).copied();
                let child = known.unwrap_or_else(|| self.add(lower_node(&plans[i], first)));
                files.insert((i, first.clone()), child);
                self.nodes[id].children.insert(name.to_owned(), child);
                if self.nodes[child].is_dir() {
                    self.merge(plans, path, child, files);
                }
            }
        }
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn find(&self, path: &str) -> Result<Id, Errno> {
        let mut id = 0;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            if !self.nodes[id].is_dir() {
                return Err(Errno::NOTDIR);
            }
            id = *self.nodes[id].children.get(part).ok_or(Errno::NOENT)?;
        }
        Ok(id)
    }

    fn node(&mut self, path: &str) -> Result<&mut Node, Errno> {
        let id = self.find(path)?;
        Ok(&mut self.nodes[id])
    }

    fn insert(&mut self, path: &str, mut node: Node) -> Outcome {
        let (dir, name) = split(path);
        let parent = self.find(dir)?;
        if self.nodes[parent].children.contains_key(name) {
            return Err(Errno::EXIST);
        }
        if self.nodes[parent].mode & 0o2000 != 0 {
            node.owner.1 = self.nodes[parent].owner.1;
            node.mode |= if node.is_dir() { 0o2000 } else { 0 };
        }
        let id = self.add(node);
        self.attach(parent, name, id);
        Ok(Vec::new())
    }

    fn attach(&mut self, parent: Id, name: &str, id: Id) {
        self.nodes[parent].children.insert(name.to_owned(), id);
        self.nodes[parent].touch();
    }

    fn detach(&mut self, parent: Id, name: &str) {
        if let Some(id) = self.nodes[parent].children.remove(name) {
            self.nodes[id].nlink -= 1;
        }
        self.nodes[parent].touch();
    }

    fn link(&mut self, from: &str, to: &str) -> Outcome {
        let (id, (dir, name)) = (self.find(from)?, split(to));
        let parent = self.find(dir)?;
        if self.nodes[parent].children.contains_key(name) {
            return Err(Errno::EXIST);
        }
        if self.nodes[id].is_dir() {
            return Err(Errno::PERM);
        }
        self.nodes[id].nlink += 1;
        self.attach(parent, name, id);
        Ok(Vec::new())
    }

    fn remove(&mut self, path: &str, want_dir: bool) -> Outcome {
        let (id, (dir, name)) = (self.find(path)?, split(path));
        match (want_dir, self.nodes[id].is_dir()) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            _ if !self.nodes[id].children.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        let parent = self.find(dir)?;
        self.detach(parent, name);
        Ok(Vec::new())
    }

    /// In the order of the checks of rename(2): the VFS first, then the union.
    fn rename(&mut self, from: &str, to: &str, how: How) -> Outcome {
        let (old, new) = (self.find(from)?, self.find(to));
        let ((old_dir, old_name), (new_dir, new_name)) = (split(from), split(to));
        let (old_dir, new_dir) = (self.find(old_dir)?, self.find(new_dir)?);
        match (how, new) {
            (How::NoReplace, Ok(_)) => return Err(Errno::EXIST),
            (How::Exchange, Err(e)) => return Err(e),
            _ if beneath(to, from) => return Err(Errno::INVAL),
            (How::Exchange, _) if beneath(from, to) => return Err(Errno::INVAL),
            _ if beneath(from, to) => return Err(Errno::NOTEMPTY),
            (_, Ok(new)) if new == old => return Ok(Vec::new()),
            (How::Plain, Ok(new)) => match (self.nodes[old].is_dir(), self.nodes[new].is_dir()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                _ => {}
            },
            _ => {}
        }
        match (how, new) {
            (How::Exchange, Ok(new)) => {
                self.attach(old_dir, old_name, new);
                self.attach(new_dir, new_name, old);
                return Ok(Vec::new());
            }
            (_, Ok(new)) if !self.nodes[new].children.is_empty() => return Err(Errno::NOTEMPTY),
            (_, Ok(_)) => self.detach(new_dir, new_name),
            _ => {}
        }
        self.nodes[old_dir].children.remove(old_name);
        self.nodes[old_dir].touch();
        self.attach(new_dir, new_name, old);
        Ok(Vec::new())
    }

    fn fallocate(&mut self, path: &str, room: Room, at: usize, len: usize) -> Outcome {
        let node = self.node(path)?;
        node.may_write()?;
        let (size, end) = (node.data.len(), at + len);
        if matches!(room, Room::Extend | Room::Zero) {
            node.data.edit().resize(size.max(end), 0);
        }
        if matches!(room, Room::Punch | Room::Zero) {
            let end = end.min(node.data.len());
            node.data.edit()[at.min(end)..end].fill(0);
        }
        node.written();
        Ok(Vec::new())
    }

    fn set_mode(node: &mut Node, mode: u32) -> Outcome {
        node.mode = mode;
        Ok(Vec::new())
    }

    fn chown(&mut self, path: &str, uid: u32, gid: u32) -> Outcome {
        let node = self.node(path)?;
        node.owner = (uid, gid);
        if !node.is_dir() {
            node.strip_suid();
        }
        Ok(Vec::new())
    }

    fn xattr(&mut self, path: &str, name: &'static str, value: Option<Vec<u8>>) -> Outcome {
        let node = self.node(path)?;
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::PERM);
        }
        node.may_write()?;
        match value {
            Some(value) => drop(node.xattrs.insert(name, value)),
            None => drop(node.xattrs.remove(name).ok_or(Errno::NODATA)?),
        }
        Ok(Vec::new())
    }

    /// The held node, and whether it was opened for writing.
    fn held(&mut self, slot: usize) -> Result<(&mut Node, bool), Errno> {
        let (id, write) = self.held[slot].ok_or(Errno::BADF)?;
        Ok((&mut self.nodes[id], write))
    }

    fn hold(&mut self, slot: usize, path: &str, write: bool) -> Outcome {
        let id = self.find(path)?;
        if write {
            self.nodes[id].may_write()?;
        }
        self.held[slot] = Some((id, write));
        Ok(Vec::new())
    }

    /// Writes to an open file.
    fn change(&mut self, path: &str, f: impl FnOnce(&mut Node)) -> Outcome {
        let node = self.node(path)?;
        node.may_write()?;
        f(node);
        Ok(Vec::new())
    }

    /// From now on it is not known when the directories were changed, nor the objects with these names or held open: what
    /// a kill leaves of one change.
    pub fn forget_times(&mut self, paths: &[&str]) {
        let named = paths.iter().filter_map(|path| self.find(path).ok());
        let ids: Vec<Id> = named.chain(self.held.iter().flatten().map(|held| held.0)).collect();
        ids.into_iter().for_each(|id| self.nodes[id].touch());
        self.nodes.iter_mut().filter(|node| node.is_dir()).for_each(Node::touch);
    }

    /// Nobody holds anything open any more.
    pub fn release(&mut self) {
        self.held = Default::default();
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &str) -> Option<Bytes> {
        self.find(path).ok().map(|id| self.nodes[id].data.clone())
    }

    /// The object is what was seen, which has these bytes: one of several states that a change may leave.
    pub fn adopt(&mut self, path: &str, seen: &Object, bytes: Option<Vec<u8>>) {
        let Ok(id) = self.find(path) else { return };
        let node = &mut self.nodes[id];
        (node.mode, node.owner) = (seen.mode, seen.owner);
        if let Some(bytes) = bytes {
            node.data = Bytes::new(bytes);
        }
    }

    fn walk(&self, dir: &str, id: Id, f: &mut dyn FnMut(&str, Id)) {
        f(dir, id);
        for (name, child) in &self.nodes[id].children {
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            self.walk(&path, *child, f);
        }
    }
}

/// A node as it stands in a layer.
fn lower_node(plan: &Plan, path: &str) -> Node {
    let mut node = match &plan[path] {
        Kind::File { seed, len, mode, xattr } => {
            let names = plan.values().filter(|k| matches!(k, Kind::Again(first) if first == path)).count();
            Node {
                data: Bytes::new(content(*seed, *len)),
                nlink: 1 + names as u64,
                xattrs: xattr.then(|| ("user.a", b"lower".to_vec())).into_iter().collect(),
                ..Node::new(FileType::RegularFile, *mode)
            }
        }
        Kind::Dir { mode, .. } => Node::new(FileType::Directory, *mode),
        Kind::Symlink => Node { target: "b/c", ..Node::new(FileType::Symlink, 0o777) },
        Kind::Fifo => Node::new(FileType::Fifo, 0o644),
        Kind::Again(_) | Kind::Whiteout => panic!(),
    };
    node.changed = Changed::At(OLD.tv_sec, OLD.tv_nsec);
    node
}

impl Subject for Memory {
    fn apply(&mut self, step: &Step) -> Outcome {
        let masked = |mode: u32| mode & !0o022;
        let done = Ok(Vec::new());
        match step {
            Step::Nothing | Step::Compare => done,
            Step::Create(p, mode) => self.insert(p, Node::new(FileType::RegularFile, masked(*mode))),
            Step::Mkdir(p, mode) => self.insert(p, Node::new(FileType::Directory, masked(*mode))),
            Step::Mkfifo(p) => self.insert(p, Node::new(FileType::Fifo, 0o644)),
            Step::Symlink(p) => self.insert(p, Node { target: "a/b", ..Node::new(FileType::Symlink, 0o777) }),
            Step::Link(from, to) => self.link(from, to),
            Step::Unlink(p) => self.remove(p, false),
            Step::Rmdir(p) => self.remove(p, true),
            Step::Rename(from, to, how) => self.rename(from, to, *how),
            Step::Write(p, at, len, seed) => self.change(p, |n| n.write(*at, &content(*seed, *len))),
            Step::Append(p, len, seed) => self.change(p, |n| n.write(n.data.len(), &content(*seed, *len))),
            Step::Truncate(p, size) => self.change(p, |n| {
                n.data.edit().resize(*size, 0);
                n.written();
            }),
            Step::OpenTruncate(p) => self.change(p, |n| {
                n.data = Bytes::default();
                n.written();
            }),
            Step::Fallocate(p, room, at, len) => self.fallocate(p, *room, *at, *len),
            Step::Read(p) => Ok(self.node(p)?.data.to_vec()),
            Step::List(p) => {
                let names: Vec<_> = self.node(p)?.children.keys().cloned().collect();
                Ok(names.join(" ").into_bytes())
            }
            Step::Chmod(p, mode) => Memory::set_mode(self.node(p)?, *mode),
            Step::Chown(p, uid, gid) => self.chown(p, *uid, *gid),
            Step::Utimes(p, sec) => {
                self.node(p)?.changed = Changed::At(*sec, 7);
                done
            }
            Step::SetXattr(p, name, seed) => self.xattr(p, name, Some(content(*seed, 9))),
            Step::RemoveXattr(p, name) => self.xattr(p, name, None),
            Step::Hold(slot, p, write) => self.hold(*slot, p, *write),
            Step::Drop(slot) => {
                self.held[*slot] = None;
                done
            }
            Step::HeldRead(slot) => Ok(self.held(*slot)?.0.data.to_vec()),
            Step::HeldWrite(slot, at, len, seed) => {
                let (node, write) = self.held(*slot)?;
                write.then(|| node.write(*at, &content(*seed, *len))).ok_or(Errno::BADF)?;
                done
            }
            Step::HeldTruncate(slot, size) => {
                let (node, write) = self.held(*slot)?;
                write.then(|| node.data.edit().resize(*size, 0)).ok_or(Errno::INVAL)?;
                node.written();
                done
            }
            Step::HeldChmod(slot, mode) => Memory::set_mode(self.held(*slot)?.0, *mode),
            Step::HeldStat(slot) => {
                let node = self.held(*slot)?.0;
                Ok(format!("size {} mode {:o} links {}", node.data.len(), node.mode, node.nlink).into_bytes())
            }
        }
    }

    fn known(&self) -> Known {
        let mut known = Known::default();
        self.walk("", 0, &mut |path, id| known.add(path, self.nodes[id].kind));
        known.sort();
        known
    }

    fn view(&self, walk: Walk) -> View {
        let mut view = View::default();
        let mut names: BTreeMap<Id, BTreeSet<Vec<u8>>> = BTreeMap::new();
        self.walk("", 0, &mut |path, id| {
            let node = &self.nodes[id];
            let object = Object {
                kind: node.kind,
                mode: node.mode,
                owner: node.owner,
                size: node.data.len() as u64,
                content: Ok(if node.kind == FileType::RegularFile { node.data.fingerprint() } else { 0 }),
                target: node.target.as_bytes().to_vec(),
                rdev: 0,
                nlink: if node.is_dir() || walk.without_links { 0 } else { node.nlink },
                xattrs: node.xattrs.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.clone())).collect(),
                changed: if walk.times { node.changed } else { Changed::Whenever },
            };
            view.objects.insert(path.as_bytes().to_vec(), object);
            names.entry(id).or_default().insert(path.as_bytes().to_vec());
        });
        view.same = names.into_values().filter(|n| n.len() > 1 && !walk.without_links).collect();
        view
    }
}
