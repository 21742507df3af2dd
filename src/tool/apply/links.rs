//! Names of a lower file that the upper layer does not have: the index leads them to the copy, which has to come in the
//! place of each.

use std::collections::{HashMap, HashSet};

use super::plan::names_in;
use super::reach::{Id, id, ways};
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
        let Some(root) = self.layers.grounds().first().filter(|_| !wanted.is_empty()) else { return Ok(()) };
        let units = self.whole_units();
        let known: HashSet<Vec<u8>> = self.items.iter().map(|item| item.path.clone()).collect();
        let mut todo = vec![(root.place.clone(), Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            for name in names_in(&dir).at(&path)? {
                let below = join(&path, &name);
                let Some(stat) = dir.stat_on_disk(&name).at(&below)? else { continue };
                if stat.is_dir() && stat.ino != 0 {
                    todo.push((dir.child(&name, stat.ino), below));
                } else if wanted.contains_key(&id(&stat)) {
                    self.other_name((&below, path.clone()), Old { id: id(&stat), stat }, (&units, &known))?;
                }
            }
        }
        Ok(())
    }

    fn other_name(
        &mut self,
        (below, ground): (&[u8], Vec<u8>),
        old: Old,
        (units, known): (&HashSet<Vec<u8>>, &HashSet<Vec<u8>>),
    ) -> Outcome<()> {
        let path = self.seen_at(below);
        if known.contains(&path) {
            return Ok(());
        }
        let names =
            path.split(|byte| *byte == b'/').map(Name::new).collect::<crate::base::Result<Vec<_>>>().at(&path)?;
        let Some(Found::Leaf(leaf)) = self.layers.find(&self.layers.root, &names).at(&path)? else { return Ok(()) };
        if leaf.named || leaf.index.is_none() {
            return Ok(());
        }
        // The directory that is applied as a whole and in which it lies, if there is one.
        let unit = ways(&path).find(|way| units.contains(*way)).unwrap_or(&path).to_vec();
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

    /// What is applied as a whole.
    fn whole_units(&self) -> HashSet<Vec<u8>> {
        let is_whole = |item: &&Item| matches!(item.act, Act::NewDir | Act::Moved { .. });
        self.items.iter().filter(is_whole).map(|item| item.unit.clone()).collect()
    }

    /// Where the view shows what the lower layer has at a path.
    fn seen_at(&self, below: &[u8]) -> Vec<u8> {
        // The deepest directory counts.
        let moved = ways(below).filter_map(|way| Some((way, self.moved.get(way)?))).last();
        match moved {
            Some((was, now)) => [now, below.strip_prefix(was).unwrap_or_default()].concat(),
            None => below.to_vec(),
        }
    }
}
