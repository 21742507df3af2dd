//! Enters inodes that the daemon before has given out, with the numbers that the kernel knows.

use std::sync::Arc;

use super::table::make;
use super::{Body, Inode, InodeId, Key, Node, Table};
use crate::base::{Few, Name};
use crate::merge::Found;

impl Table {
    /// Makes new numbers that no layer gives start behind those that were given out before.
    pub fn go_on_behind(&self, ids: impl Iterator<Item = u64>) {
        self.numbers.go_on_behind(ids);
    }

    /// Enters the object that was found under `name` as the inode `id`, with one hold until [`Table::adopted`]. `None`:
    /// another inode has this name or number already.
    pub fn adopt(&self, id: InodeId, parent: &Arc<Inode>, name: &Name, found: &Found) -> Option<Arc<Inode>> {
        let key = self.link_key(found);
        let inode = Arc::new(make(id, parent, name, found, key));
        if !self.by_id.insert_new(&id, &inode) {
            return None;
        }
        if !self.by_name.insert_new(&(parent.id, name), &inode) {
            self.by_id.remove_inode(&id, &inode);
            return None;
        }
        if let Some(key) = key {
            self.by_key.insert_new(&key, &inode);
        }
        parent.acquire();
        Some(inode)
    }

    /// Enters an object without a name as the inode `id`, with one hold until [`Table::adopted`]. `name`: its name in
    /// workdir or a lower layer; `hidden`: it is in workdir, and goes with the inode.
    pub fn adopt_nameless(&self, id: InodeId, name: &Name, found: &Found, hidden: bool) -> Option<Arc<Inode>> {
        let inode = Arc::new(make(id, &self.root, name, found, self.link_key(found)));
        match &inode.body {
            Body::Leaf(leaf) => {
                let mut state = leaf.state.lock();
                state.names = Few::default();
                if hidden {
                    state.set_hidden();
                }
            }
            Body::Dir(dir) => {
                let mut state = dir.state.write();
                state.at = None;
                if let Found::Dir(found) = found {
                    state.removed = Some(Box::new(found.stat));
                }
            }
        }
        self.by_id.insert_new(&id, &inode).then_some(inode)
    }

    /// Gives an adopted inode the lookups and the hard-link keys that it had, and ends the hold of its adoption.
    pub fn adopted(&self, inode: &Arc<Inode>, node: &Node) {
        for &(dev, ino) in &node.keys {
            self.add_key(inode, Key { dev, ino });
            // A pinned inode stays until its last name is gone.
            if let Body::Leaf(leaf) = &inode.body {
                leaf.state.lock().set_pinned(true);
            }
        }
        // The adoption holds one lookup.
        match node.lookups.checked_sub(1) {
            Some(more) => inode.acquire_many(more),
            None => self.release(inode, 1, &mut |_| {}),
        }
    }
}
