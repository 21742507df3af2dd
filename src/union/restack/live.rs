//! The union that is served, which a step replaces by another one while requests go on to come.
//!
//! Each request [enters](Live::enter) and leaves, which costs two writes to a cache line that few other threads use. A step
//! closes all doors, one after the other, and so finds nobody inside. It never waits at a closed door for long: where a
//! request takes its time (a sync, a large copy, a page that another request holds) the doors are opened again, and the
//! step comes back later.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::disk::Ready;
use super::record::{self, Record};
use super::{Done, LayerChange, Step, back};
use crate::base::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::format::commits::Why;
use crate::union::Union;
use crate::union::refusal::{Setup, SetupError};

/// The union that is served.
pub struct Live {
    doors: Box<[Door]>,
    /// Requests that take long.
    long: AtomicUsize,
    /// Held for a step.
    step: Mutex<Steps>,
    /// Where steps are written down that this view takes together with others.
    record: Mutex<Option<Arc<dyn Record>>>,
}

/// The type that [`Live::step`] guards, by which the order of the locks knows that lock.
struct Steps;

/// On cache lines of its own.
#[repr(align(128))]
struct Door(RwLock<Arc<Union>>);

/// Doors; the threads that serve are about two.
const DOORS: usize = 8;
/// The most time for which requests wait before a step gives way to those that are under way.
const PATIENCE: Duration = Duration::from_millis(40);
/// The time until it tries again.
const PAUSE: Duration = Duration::from_millis(20);
/// The time after which a step gives up.
const ENOUGH: Duration = Duration::from_secs(60);

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// By which door this thread goes in.
    static DOOR: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The union, as long as the value lives.
pub struct Entered<'a>(RwLockReadGuard<'a, Arc<Union>>);

impl Deref for Entered<'_> {
    type Target = Arc<Union>;

    fn deref(&self) -> &Arc<Union> {
        &self.0
    }
}

/// A request that takes long.
pub struct Long<'a>(&'a Live);

impl Drop for Long<'_> {
    fn drop(&mut self) {
        self.0.long.fetch_sub(1, SeqCst);
    }
}

/// All doors of one view, closed.
type Closed<'a> = Vec<RwLockWriteGuard<'a, Arc<Union>>>;

impl Live {
    /// Serves this union at first.
    pub fn new(union: Arc<Union>) -> Self {
        let doors = (0..DOORS).map(|_| Door(RwLock::new(union.clone()))).collect();
        Self { doors, long: AtomicUsize::new(0), step: Mutex::new(Steps), record: Mutex::new(None) }
    }

    /// Steps that this view takes together with others are written down there.
    pub fn record_in(&self, record: Arc<dyn Record>) {
        *self.record.lock() = Some(record);
    }

    pub(super) fn record(&self) -> Option<Arc<dyn Record>> {
        self.record.lock().clone()
    }

    /// The union that is served now: no other one is until the value is dropped. A thread may enter twice.
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of doors")]
    pub fn enter(&self) -> Entered<'_> {
        let mut door = DOOR.get();
        if door == usize::MAX {
            door = THREADS.fetch_add(1, Relaxed) % DOORS;
            DOOR.set(door);
        }
        Entered(self.doors[door].0.read())
    }

    /// A request is under way that takes long, until the value is dropped.
    pub fn takes_long(&self) -> Long<'_> {
        self.long.fetch_add(1, SeqCst);
        Long(self)
    }

    /// Closes all doors; `None`: somebody is inside and does not leave.
    pub(super) fn close(&self) -> Option<Closed<'_>> {
        let deadline = Instant::now() + PATIENCE;
        let mut closed = Vec::with_capacity(DOORS);
        for door in &self.doors {
            // Nobody ever waits at a door to close it, so that whoever is inside can enter once more.
            loop {
                if let Some(door) = door.0.try_write() {
                    closed.push(door);
                    break;
                }
                if Instant::now() > deadline {
                    return None;
                }
                sleep(Duration::from_micros(20));
            }
        }
        Some(closed)
    }

    /// Takes a step.
    ///
    /// # Errors
    /// Why it is not taken; then nothing has changed.
    pub fn step(&self, step: &Step, check: &dyn Fn() -> Setup<()>) -> Setup<Done> {
        step_together(&[self], step, check)
    }
}

/// Takes one step with several views, which get commits of one number. `check`: what else may stand in the way, asked when
/// no request is under way.
///
/// # Errors
/// Why it is not taken; then nothing has changed.
pub fn step_together(views: &[&Live], step: &Step, check: &dyn Fn() -> Setup<()>) -> Setup<Done> {
    let _steps: Vec<_> = views.iter().map(|view| view.step.lock()).collect();
    let deadline = Instant::now() + ENOUGH;
    for attempt in 0.. {
        let done = match (step, views) {
            (Step::UndoPaths { paths }, [view]) => try_paths(view, paths, check)?,
            (Step::Layers(change), [view]) => try_layers(view, change, attempt)?,
            (Step::Redo, _) => try_redo(views, check)?,
            _ => try_step(views, step, check)?,
        };
        if let Some(done) = done {
            return Ok(done);
        }
        if Instant::now() > deadline {
            break;
        }
        sleep(PAUSE);
    }
    let reason = "requests that take long are always under way, such as copies of large files";
    Err(SetupError::new("the view", reason, "try again when they are done"))
}

/// One attempt; `None`: it must be made again.
fn try_step(views: &[&Live], step: &Step, check: &dyn Fn() -> Setup<()>) -> Setup<Option<Done>> {
    if views.iter().any(|view| view.long.load(SeqCst) > 0) {
        return Ok(None);
    }
    let unions: Vec<Arc<Union>> = views.iter().map(|view| view.enter().clone()).collect();
    for union in &unions {
        union.make_whole()?;
    }
    let prepared = prepare(&unions, step)?;
    let (mut ready, changed): (Vec<Ready>, Vec<bool>) = prepared.into_iter().unzip();
    let record = record::note(views, &unions, &ready)?;
    let mut closed = Vec::new();
    for view in views {
        let Some(doors) = view.close() else { return Ok(None) };
        closed.push(doors);
    }
    // What was found before the doors were closed must still hold.
    for ((union, changed), ready) in unions.iter().zip(changed).zip(&ready) {
        if union.has_changes()? != changed || !union.check_whole()? || !union.is_unchanged(ready)? {
            return Ok(None);
        }
    }
    check()?;
    let recorded = record::begin(record)?;
    let next = replace_all(&unions, &mut ready)?;
    drop(recorded);
    let mut told = Vec::new();
    for ((doors, (next, notes)), union) in closed.into_iter().zip(next).zip(&unions) {
        told.push((replace(doors, union, next), notes));
    }
    drop(unions);
    for ((union, notes), ready) in told.iter().zip(&ready) {
        union.tidy_up(ready);
        union.tell_returned(notes);
    }
    let first = ready.first();
    Ok(first.map(|ready| Done {
        made: (ready.aim.why != Why::Empty).then_some(ready.successor.number),
        on: ready.stand.on,
        returned: false,
    }))
}

/// One attempt to take single paths back; `None`: it must be made again.
fn try_paths(view: &Live, paths: &[Vec<u8>], check: &dyn Fn() -> Setup<()>) -> Setup<Option<Done>> {
    if view.long.load(SeqCst) > 0 {
        return Ok(None);
    }
    let union = view.enter().clone();
    union.make_whole()?;
    let mut taking = union.make_ready_to_take(paths)?;
    let Some(closed) = view.close() else { return Ok(None) };
    if !union.check_whole()? {
        return Ok(None);
    }
    check()?;
    let Some(notes) = union.take_paths(&mut taking)? else { return Ok(None) };
    drop(closed);
    union.tidy_taken(&taking);
    union.tell_returned(&notes);
    Ok(Some(Done { made: Some(taking.number()), on: taking.on, returned: false }))
}

/// One attempt to change the lower layers; `None`: it must be made again.
fn try_layers(view: &Live, change: &LayerChange, attempt: usize) -> Setup<Option<Done>> {
    if view.long.load(SeqCst) > 0 {
        return Ok(None);
    }
    let union = view.enter().clone();
    union.complete_blocks_there()?;
    let layering = union.plan_layers(change)?;
    let Some(closed) = view.close() else { return Ok(None) };
    if !union.has_whole_files()? || !union.still_holds(&layering, change.dir(), attempt)? {
        return Ok(None);
    }
    let (next, notes) = union.relayer(layering)?;
    let next = replace(closed, &union, next);
    drop(union);
    next.tell_returned(&notes);
    Ok(Some(Done { made: None, on: 0, returned: false }))
}

/// Opens the doors to another union.
fn replace(closed: Closed<'_>, union: &Arc<Union>, next: Union) -> Arc<Union> {
    let next = Arc::new(next);
    union.superseded.store(true, Relaxed);
    for mut door in closed {
        *door = next.clone();
    }
    next
}

/// One attempt to come forward: to paths that were taken back in one of the views, or to the next commit.
fn try_redo(views: &[&Live], check: &dyn Fn() -> Setup<()>) -> Setup<Option<Done>> {
    for view in views {
        if view.enter().has_taken()? {
            if view.long.load(SeqCst) > 0 {
                return Ok(None);
            }
            let on = back::try_return(view, check)?;
            return Ok(on.map(|on| Done { made: None, on, returned: true }));
        }
    }
    try_step(views, &Step::Redo, check)
}

/// Prepares a step in each view, with whether something has changed there.
fn prepare(unions: &[Arc<Union>], step: &Step) -> Setup<Vec<(Ready, bool)>> {
    let changed = unions.iter().map(|union| union.has_changes()).collect::<Setup<Vec<bool>>>()?;
    let any = changed.iter().any(|&changed| changed);
    // Of several views the one with the longest history says where the step leads.
    let points = unions.iter().map(|union| Ok((union, union.standpoint()?))).collect::<Setup<Vec<_>>>()?;
    let Some((leader, from)) = points.iter().rev().max_by_key(|(_, point)| point.chain.len()) else {
        return Ok(Vec::new());
    };
    let aim = leader.aim(step, from, any)?;
    let numbers = unions.iter().map(|union| union.next_number()).collect::<Setup<Vec<u64>>>()?;
    let number = numbers.into_iter().max().unwrap_or(1);
    let ready = unions.iter().map(|union| union.make_ready(step, aim, number)).collect::<Setup<Vec<_>>>()?;
    Ok(ready.into_iter().zip(changed).collect())
}

/// Replaces each union by the next one: all or none.
fn replace_all(unions: &[Arc<Union>], ready: &mut [Ready]) -> Setup<Vec<(Union, super::returned::Notes)>> {
    let mut next = Vec::new();
    for at in 0..unions.len() {
        let made = unions.get(at).zip(ready.get_mut(at)).map(|(union, ready)| union.succeed(ready));
        match made.transpose() {
            Ok(made) => next.extend(made),
            Err(error) => {
                for (union, ready) in unions.iter().zip(ready.iter_mut()).take(at) {
                    union.undo_exchange(ready);
                }
                return Err(error);
            }
        }
    }
    // From here on nothing fails.
    Ok(next.into_iter().zip(unions).zip(ready.iter()).map(|((next, old), ready)| next.take_over(old, ready)).collect())
}
