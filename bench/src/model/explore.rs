//! Explicit-state search, breadth first: every world that can be reached, the shortest way to a broken invariant, and
//! whether a way back leads out of every one of them.
//!
//! I13 is a branching property: from *every* world there *is* a fair continuation to a goal. It is decided by walking
//! fair steps backwards from all goals. Worlds are compared whole, not by a hash.

use super::action::{Action, Reach};
use super::decisions::Decisions;
use super::mutant::Mutant;
use super::scope::Scope;
use super::state::{Link, Phase, World};
use super::step::{Broken, Step};
use super::world::beginning;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// What an exploration came to.
#[derive(Debug)]
pub(super) struct Explored {
    pub(super) worlds: usize,
    pub(super) steps: usize,
    pub(super) depth: usize,
    pub(super) failure: Option<Failure>,
}

/// A broken invariant and the shortest way to it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) broken: Broken,
    pub(super) way: Vec<(Action, Rc<World>)>,
}

/// What a client that is locked out breaks.
const LOCKED_OUT: Broken =
    "I13: the session lives and the client's path works, but no continuation brings it back in";

/// Everything reachable in `scope`.
pub(super) fn explore(scope: &Scope, mutant: Option<Mutant>, decisions: &Decisions) -> Explored {
    let mut graph = Graph::new(scope, mutant, decisions);
    let failure = graph.search();
    Explored {
        worlds: graph.nodes.len(),
        steps: graph.steps,
        depth: graph.nodes.iter().map(|node| usize::from(node.depth)).max().unwrap_or(0),
        failure,
    }
}

struct Node {
    world: Rc<World>,
    /// How it was reached first; the beginning names itself.
    parent: u32,
    action: Option<Action>,
    depth: u16,
    /// Sessions (one bit each) in which the client can still get back in.
    ways: u8,
}

struct Graph<'a> {
    scope: &'a Scope,
    mutant: Option<Mutant>,
    decisions: &'a Decisions,
    nodes: Vec<Node>,
    numbers: HashMap<Rc<World>, u32>,
    /// Fair steps.
    fair: Vec<(u32, u32)>,
    steps: usize,
}

impl<'a> Graph<'a> {
    fn new(scope: &'a Scope, mutant: Option<Mutant>, decisions: &'a Decisions) -> Self {
        Self {
            scope,
            mutant,
            decisions,
            nodes: Vec::new(),
            numbers: HashMap::new(),
            fair: Vec::new(),
            steps: 0,
        }
    }

    fn search(&mut self) -> Option<Failure> {
        let first = beginning(self.scope, self.mutant, self.decisions);
        self.number(first, 0, None);
        let mut at = 0;
        while at < self.nodes.len() {
            if let Some(failure) = self.expand(at as u32) {
                return Some(failure);
            }
            at += 1;
        }
        self.mark_ways();
        // What is found from here on needs the spare, and nothing is asked of it.
        (0..self.nodes.len() as u32).find_map(|node| self.seek_way_back(node))
    }

    /// A world that has no way back with what the scope lets the client send: one is sought with the spare. First as
    /// everybody would go on who does his duty at once; if that leads nowhere, everywhere.
    fn seek_way_back(&mut self, root: u32) -> Option<Failure> {
        if self.gets_back_in(root) {
            return None;
        }
        let mut line = vec![root];
        while let Some(last) = line.last().copied() {
            if self.gets_back_in(last) {
                let ways = self.nodes[last as usize].ways;
                line.iter().for_each(|node| self.nodes[*node as usize].ways |= ways);
                break;
            }
            match self.dutiful(last, &line) {
                Ok(Some(next)) => line.push(next),
                Ok(None) => break,
                Err(failure) => return Some(failure),
            }
        }
        if self.gets_back_in(root) { None } else { self.seek_everywhere(root) }
    }

    /// The first duty that leads to a world that is not in `line`.
    fn dutiful(&mut self, node: u32, line: &[u32]) -> Result<Option<u32>, Failure> {
        let mut duties = self.step(node).actions(Reach::Spare);
        duties.retain(|action| action.is_fair());
        duties.sort_by_key(|action| action.urgency());
        for action in duties {
            let to = self.go(node, action)?;
            if !line.contains(&to) {
                return Ok(Some(to));
            }
        }
        Ok(None)
    }

    fn seek_everywhere(&mut self, root: u32) -> Option<Failure> {
        let needed = self.needed(root);
        let mut open = vec![(root, 0)];
        let mut met = HashSet::from([root]);
        let mut at = 0;
        while let Some((node, _)) = open.get(at).copied() {
            for action in self.step(node).actions(Reach::Spare).into_iter().filter(|action| action.is_fair())
            {
                let to = match self.go(node, action) {
                    Ok(to) => to,
                    Err(failure) => return Some(failure),
                };
                let ways = self.nodes[to as usize].ways;
                if ways & needed != 0 {
                    return self.mark_line(&open, at, ways);
                }
                if met.insert(to) {
                    open.push((to, at));
                }
            }
            at += 1;
        }
        Some(Failure { broken: LOCKED_OUT, way: self.way(root) })
    }

    /// Everything on the line that led to `at` has these ways.
    fn mark_line(&mut self, line: &[(u32, usize)], mut at: usize, ways: u8) -> Option<Failure> {
        loop {
            let (node, before) = line[at];
            self.nodes[node as usize].ways |= ways;
            if at == before {
                return None;
            }
            at = before;
        }
    }

    fn step(&self, node: u32) -> Step<'a> {
        let world = World::clone(&self.nodes[node as usize].world);
        Step::new(self.scope, self.mutant, self.decisions, world)
    }

    fn expand(&mut self, node: u32) -> Option<Failure> {
        let actions = self.step(node).actions(Reach::Full);
        actions.into_iter().find_map(|action| self.go(node, action).err())
    }

    fn go(&mut self, node: u32, action: Action) -> Result<u32, Failure> {
        self.steps += 1;
        let (world, broken) = self.step(node).take(action);
        if let Some(broken) = broken {
            let mut way = self.way(node);
            way.push((action, Rc::new(world)));
            return Err(Failure { broken, way });
        }
        let to = self.number(world, node, Some(action));
        if action.is_fair() && to != node {
            self.fair.push((node, to));
        }
        Ok(to)
    }

    fn number(&mut self, world: World, parent: u32, action: Option<Action>) -> u32 {
        if let Some(number) = self.numbers.get(&world) {
            return *number;
        }
        let number = self.nodes.len() as u32;
        let ways = self.is_in(&world).map_or(0, |session| 1 << session);
        let world = Rc::new(world);
        self.numbers.insert(Rc::clone(&world), number);
        let depth = self.nodes.get(parent as usize).map_or(0, |parent| parent.depth + 1);
        self.nodes.push(Node { world, parent, action, depth, ways });
        number
    }

    fn way(&self, mut node: u32) -> Vec<(Action, Rc<World>)> {
        let mut way = Vec::new();
        while let Some(action) = self.nodes[node as usize].action {
            way.push((action, Rc::clone(&self.nodes[node as usize].world)));
            node = self.nodes[node as usize].parent;
        }
        way.reverse();
        way
    }

    /// Walks fair steps backwards from every goal.
    fn mark_ways(&mut self) {
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        for (from, to) in &self.fair {
            into[*to as usize].push(*from);
        }
        let mut open = Vec::new();
        for number in 0..self.nodes.len() {
            if self.nodes[number].ways != 0 {
                open.push(number as u32);
            }
        }
        while let Some(to) = open.pop() {
            let ways = self.nodes[to as usize].ways;
            for from in &into[to as usize] {
                let node = &mut self.nodes[*from as usize];
                if node.ways | ways != node.ways {
                    node.ways |= ways;
                    open.push(*from);
                }
            }
        }
    }

    /// The session that the client is in: both ends and the tables agree on its binding, and it carries data.
    fn is_in(&self, world: &World) -> Option<u8> {
        let Phase::Session(held) = world.client.phase else { return None };
        let session = world.gateway.sessions.get(usize::from(held.session))?.as_ref()?;
        let binding = session.binding?;
        let slot = world.slots.get(usize::from(held.binding))?;
        let client = held.recovery.is_none() && held.proven && held.sending;
        let gateway = binding.bind == held.binding
            && binding.confirmed
            && world.gateway.life == super::state::Life::Running
            && world.gateway.link == Link::Up
            && self.decisions.core(session.core).state().is_bound();
        let tables = slot.word && slot.remote == held.path && world.data_plane.running;
        (client && gateway && tables).then_some(held.session)
    }

    /// Whether I13 holds here, as far as is known.
    fn gets_back_in(&self, node: u32) -> bool {
        let world = &self.nodes[node as usize].world;
        // Towards the end nobody can wait any longer.
        let time_is_up = self.scope.moments() > 1 && world.now + 2 >= self.scope.moments();
        self.nodes[node as usize].ways & self.needed(node) != 0 || time_is_up
    }

    /// The sessions that count: the one that the client holds while that lives, else any.
    fn needed(&self, node: u32) -> u8 {
        let world = &self.nodes[node as usize].world;
        let lives = |session: u8| {
            let session = world.gateway.sessions.get(usize::from(session)).and_then(Option::as_ref);
            session.is_some_and(|session| self.decisions.core(session.core).state().is_live())
        };
        match world.client.phase {
            Phase::Session(held) if held.attached && lives(held.session) => 1 << held.session,
            Phase::Session(_) | Phase::Crashed | Phase::Searching { .. } | Phase::Ended => u8::MAX,
        }
    }
}
