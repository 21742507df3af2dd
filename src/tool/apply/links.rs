//! Names of a lower file that the upper layer does not have: the index leads them to the copy, which has to come in the
//! place of each.

use std::collections::HashMap;

use super::plan::names_in;
use super::reach::{Id, id, is_within};
use super::{Act, At, Item, Old, Outcome, Plan};
use crate::base::Name;
use crate::merge::Found;
use crate::tool::diff::join;

impl Plan<'_> {
    /// Finds them by a walk of the lower layer, if there are any.
    pub(super) fn other_names(&mut self) -> Outcome<()> {
        // Of each lower file with several names: the names that are known.
        let mut wanted: HashMap<Id, u64> = HashMap::new();
        for item in &self.items {
            if let (Act::Leaf(leaf), Some(old)) = (&item.act, &item.old)
                && leaf.index.is_some()
                && old.stat.nlink > 1
            {
                let left = wanted.entry(old.id).or_insert(old.stat.nlink);
                *left = left.saturating_sub(1);
            }
        }
        wanted.retain(|_, left| *left > 0);
        let Some(root) = self.layers.stack.lowers.first().filter(|_| !wanted.is_empty()) else { return Ok(()) };
        let mut todo = vec![(root.place.clone(), Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            for name in names_in(&dir).at(&path)? {
                let below = join(&path, &name);
                let Some(stat) = dir.stat_on_disk(&name).at(&below)? else { continue };
                if stat.is_dir() && stat.ino != 0 {
                    todo.push((dir.child(&name, stat.ino), below));
                } else if wanted.contains_key(&id(&stat)) {
                    self.other_name(&below, path.clone(), Old { id: id(&stat), stat })?;
                }
            }
        }
        Ok(())
    }

    fn other_name(&mut self, below: &[u8], ground: Vec<u8>, old: Old) -> Outcome<()> {
        let path = self.seen_at(below);
        let names =
            path.split(|byte| *byte == b'/').map(Name::new).collect::<crate::base::Result<Vec<_>>>().at(&path)?;
        let Some(Found::Leaf(leaf)) = self.layers.find(&self.layers.root, &names).at(&path)? else { return Ok(()) };
        if leaf.named || leaf.index.is_none() {
            return Ok(());
        }
        let unit = self.unit_of(&path);
        self.items.push(Item {
            path,
            unit,
            act: Act::Leaf(Box::new(leaf)),
            old: Some(old),
            ground,
            needs: None,
            parent: None,
        });
        Ok(())
    }

    /// Where the view shows what the lower layer has at a path.
    fn seen_at(&self, below: &[u8]) -> Vec<u8> {
        let moved = self.moved.iter().filter(|(was, _)| is_within(below, was)).max_by_key(|(was, _)| was.len());
        match moved {
            Some((was, now)) => [now, below.strip_prefix(was.as_slice()).unwrap_or_default()].concat(),
            None => below.to_vec(),
        }
    }
}
