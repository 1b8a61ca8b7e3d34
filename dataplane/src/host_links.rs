//! Which interfaces are ours to remove: pairs that a data plane made carry its mark, and only those are touched.

use crate::claim::{Claimed, Claims};
use crate::netlink::Netlink;
use anyhow::{Context as _, Result, bail};
use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use std::io;

/// Start of the alias (IFLA_IFALIAS, 'ip link' shows it) of both ends of a pair that a data plane made.
pub(crate) const MARK: &str = "jvpn-dataplane:lan.host:";

/// What an interface is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// There is none.
    Absent,
    /// One end of a pair that a data plane made, with this mark.
    Ours(String),
    /// Anything else, described.
    Foreign(String),
}

impl Origin {
    fn of(link: &LinkMessage) -> Self {
        let (mut kind, mut alias) = (None, String::new());
        for attribute in &link.attributes {
            if let LinkAttribute::IfAlias(text) = attribute {
                alias.clone_from(text);
            } else if let LinkAttribute::LinkInfo(infos) = attribute {
                kind = infos
                    .iter()
                    .find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.clone()) } else { None });
            }
        }
        match kind {
            Some(InfoKind::Veth) if alias.starts_with(MARK) => Self::Ours(alias),
            Some(kind) => Self::Foreign(format!("a {kind} whose alias is '{alias}'")),
            None => Self::Foreign("a device".to_owned()),
        }
    }
}

impl Netlink {
    /// What the interface of this name is.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(crate) fn origin(&mut self, name: &str) -> io::Result<Origin> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.request(RouteNetlinkMessage::GetLink(question), 0) {
            Ok(answers) => Ok(answers.iter().find_map(link_of).map_or(Origin::Absent, Origin::of)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Origin::Absent),
            Err(error) => Err(error),
        }
    }

    /// Names of all interfaces that are ours.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(crate) fn own_links(&mut self) -> io::Result<Vec<String>> {
        let answers = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let own =
            answers.iter().filter_map(link_of).filter(|link| matches!(Origin::of(link), Origin::Ours(_)));
        Ok(own.filter_map(name_of).collect())
    }
}

fn link_of(answer: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None }
    })
}

/// What stands where a pair is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing (any more).
    Free,
    /// The very pair, left by an earlier process.
    Taken,
}

/// Makes room for a pair with this mark: one of another mark is removed, the very same stays, and what is not ours is left
/// alone.
///
/// # Errors
/// If one of the names is that of a foreign interface: then nothing was removed.
pub(crate) fn make_room(key_and_name: [(&str, &str); 2], mark: &str) -> Result<Place> {
    let mut netlink = Netlink::new().context("rtnetlink")?;
    let mut found = Vec::new();
    for (key, name) in key_and_name {
        let origin = netlink.origin(name).with_context(|| format!("interface {name}"))?;
        if let Origin::Foreign(what) = &origin {
            bail!(
                "{key} = '{name}' is to be made here, but there is an interface of this name that no data plane made: {what}. \
                 It stays; choose another name, or remove it yourself: ip link delete {name}"
            );
        }
        found.push(origin);
    }
    if found.iter().all(|origin| *origin == Origin::Ours(mark.to_owned())) {
        return Ok(Place::Taken);
    }
    for (_, name) in key_and_name {
        // The second end may have gone with the first.
        if matches!(netlink.origin(name), Ok(Origin::Ours(_))) {
            tracing::info!(interface = name, "removing what an earlier data plane left");
            crate::host_side::remove_link(name)?;
        }
    }
    Ok(Place::Free)
}

/// Removes the pairs of data planes that died and whose configuration is no longer this one's.
pub fn sweep(claims: &mut Claims, ours: &[&str]) {
    let left = Netlink::new().and_then(|mut netlink| netlink.own_links()).unwrap_or_default();
    for name in left.iter().filter(|name| !ours.contains(&name.as_str())) {
        // Another data plane that lives has claimed both ends of its pair.
        if matches!(claims.claim(name), Ok(Claimed::Ours)) {
            tracing::info!(interface = %name, "removing what an earlier data plane left");
            if let Err(error) = crate::host_side::remove_link(name) {
                tracing::debug!("it went with its other end: {error:#}");
            }
            crate::host_side::remove_masquerade(name);
            claims.release(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: Option<InfoKind>, alias: &str) -> LinkMessage {
        let mut link = LinkMessage::default();
        if !alias.is_empty() {
            link.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        }
        link.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        link
    }

    /// R9.1: ours is a veth with the mark, and nothing else.
    #[test]
    fn r9_1_only_marked_pairs_are_ours() {
        let mark = format!("{MARK}7");
        assert_eq!(Origin::of(&link(Some(InfoKind::Veth), &mark)), Origin::Ours(mark.clone()));
        for (kind, alias) in [
            (Some(InfoKind::Veth), ""),
            (Some(InfoKind::Veth), "uplink of the shop"),
            (Some(InfoKind::Dummy), mark.as_str()),
            (None, mark.as_str()),
        ] {
            assert!(matches!(Origin::of(&link(kind.clone(), alias)), Origin::Foreign(_)), "{kind:?} {alias}");
        }
    }
}
