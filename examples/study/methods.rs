//! Who copies up, with which options.

use plyfs::Union;
use plyfs::config::Fsync;

use crate::common::mounts::{Peer, Server};
use crate::common::{Layers, Mounted};

/// What is durable after a copy-up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Data before its name.
    Auto,
    /// Metadata, too.
    Strict,
    /// Nothing.
    Volatile,
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Strict => "strict",
            Self::Volatile => "volatile",
        }
    }
}

enum By {
    Engine,
    Mount(Peer),
}

pub struct Method {
    pub name: String,
    pub durability: Durability,
    by: By,
    /// As a mount has them, each behind a comma.
    options: String,
}

/// What stands over the layers.
pub enum Standing {
    Engine(Box<Union>),
    Mount(Mounted),
}

impl Method {
    fn mount(peer: &Peer, word: &str, durability: Durability) -> Self {
        let name = if word.is_empty() { peer.name.clone() } else { format!("{} {word}", peer.name) };
        let mut options = if word.is_empty() { String::new() } else { format!(",{word}") };
        options += match durability {
            Durability::Auto => "",
            Durability::Strict => ",fsync=strict",
            Durability::Volatile => ",volatile",
        };
        if peer.server == Server::Kernel && word == "metacopy=on" {
            options += ",redirect_dir=on";
        }
        Self { name, durability, by: By::Mount(peer.clone()), options }
    }

    fn engine(durability: Durability) -> Self {
        Self { name: "engine".into(), durability, by: By::Engine, options: String::new() }
    }

    /// All that can be done here, and what cannot.
    pub fn available() -> (Vec<Self>, Vec<String>) {
        use Durability::{Auto, Strict, Volatile};
        let peers = Peer::available();
        let mut methods = vec![Self::engine(Auto), Self::engine(Volatile)];
        for peer in &peers {
            let words: &[(&str, Durability)] = match &peer.server {
                Server::Plyfs => &[
                    ("", Auto),
                    ("", Volatile),
                    ("", Strict),
                    ("metacopy=off", Auto),
                    ("copyup_block=64K", Auto),
                    ("copyup=open", Auto),
                ],
                Server::Kernel => &[("", Auto), ("", Volatile), ("metacopy=on", Auto)],
                // It syncs no copy in any case.
                Server::FuseOverlayfs(_) => &[("", Volatile)],
            };
            methods.extend(words.iter().map(|(word, durability)| Self::mount(peer, word, *durability)));
        }
        let has = |is: fn(&Server) -> bool| peers.iter().any(|peer| is(&peer.server));
        let mut skipped = Vec::new();
        let mut lacks = |there: bool, what: &str| {
            if !there {
                skipped.push(what.to_owned());
            }
        };
        lacks(has(|by| *by == Server::Plyfs), "plyfs through a mount: fusermount3 or /dev/fuse is missing");
        lacks(has(|by| *by == Server::Kernel), "kernel-overlayfs: it cannot be mounted here (root is needed)");
        lacks(has(|by| matches!(by, Server::FuseOverlayfs(_))), "fuse-overlayfs: there is none that can be mounted");
        (methods, skipped)
    }

    pub fn is_mount(&self) -> bool {
        matches!(self.by, By::Mount(_))
    }

    /// Over an empty upper layer; `None` where it cannot be mounted with these options.
    pub fn stand(&self, layers: &Layers) -> Option<Standing> {
        match &self.by {
            By::Engine => {
                let fsync = if self.durability == Durability::Volatile { Fsync::Volatile } else { Fsync::Auto };
                Some(Standing::Engine(Box::new(layers.union(fsync))))
            }
            By::Mount(peer) => peer.mount(layers, &self.options).map(Standing::Mount),
        }
    }

    /// The name in full.
    pub fn label(&self) -> String {
        label(&self.name, self.durability.name())
    }
}

pub fn label(name: &str, durability: &str) -> String {
    format!("{name} ({durability})")
}
