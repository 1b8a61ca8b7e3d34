use super::*;
use crate::testing::{resized, spoiled};

const NOW: BootTime = BootTime(1_000 * 60 * 1_000_000_000 + 5);

fn mint() -> TicketMint {
    TicketMint::new(&NodeKey::from_bytes([7; 32]))
}

fn ticket(name: u8) -> Ticket {
    mint().issue(NOW, [name; 8])
}

fn cookie() -> Cookie {
    Cookie([0xc0; 16])
}

fn after_buckets(buckets: u64) -> BootTime {
    NOW.after(Duration::from_secs(buckets * BUCKET_SECONDS))
}

/// R2.5, R7.1: a probe with a ticket is answered, the answer is never larger, and only its own echo matches.
#[test]
fn a_probe_is_echoed_and_only_its_echo_matches() {
    let (probe, awaited) = ticket(1).probe();
    let echo = mint().echo(NOW, &probe, cookie).unwrap();
    assert!(echo.len() <= probe.len());
    assert!(awaited.matches(&PathEcho::parse(&echo).unwrap()));
    let (other, _) = ticket(2).probe();
    let other = mint().echo(NOW, &other, cookie).unwrap();
    assert!(!awaited.matches(&PathEcho::parse(&other).unwrap()));
}

/// R2.5: nothing of a probe or an echo can be changed.
#[test]
fn every_octet_is_covered() {
    let (probe, awaited) = ticket(1).probe();
    for (at, spoiled) in spoiled(&probe) {
        assert!(mint().echo(NOW, &spoiled, cookie).is_err(), "octet {at} of the probe");
    }
    for odd in resized(&probe) {
        assert_eq!(mint().echo(NOW, &odd, cookie), Err(ProbeError::Malformed));
    }
    let echo = mint().echo(NOW, &probe, cookie).unwrap();
    for (at, spoiled) in spoiled(&echo) {
        let matches = PathEcho::parse(&spoiled).is_some_and(|echo| awaited.matches(&echo));
        assert!(!matches, "octet {at} of the echo");
    }
}

/// The gateway remembers nothing: a replayed probe gets the same echo, which its client no longer awaits. A ticket
/// cannot be used twice by who holds it: using it takes it away.
#[test]
fn reuse_changes_nothing_at_the_gateway() {
    let (probe, _) = ticket(1).probe();
    assert_eq!(mint().echo(NOW, &probe, cookie), mint().echo(after_buckets(3), &probe, cookie));
}

/// A ticket dies by time; one from before a reboot of the gateway (a bucket of the future) too.
#[test]
fn tickets_expire() {
    let (probe, _) = ticket(1).probe();
    assert!(mint().echo(after_buckets(u64::from(TICKET_BUCKETS) - 1), &probe, cookie).is_ok());
    let late = after_buckets(u64::from(TICKET_BUCKETS));
    assert_eq!(mint().echo(late, &probe, cookie), Err(ProbeError::Expired));
    assert_eq!(mint().echo(BootTime(5), &probe, cookie), Err(ProbeError::Expired));
    assert!(
        mint().echo(NOW.after(TICKET_LIFETIME), &probe, cookie).is_ok(),
        "a client may rely on the lifetime"
    );
}

/// R2.2: who saw another session's ticket on the wire has its name, but not its key; another node's is worth nothing.
#[test]
fn a_ticket_serves_only_its_holder_and_its_node() {
    let (bucket, name, _) = ticket(1).parts();
    let own = ticket(2);
    let stolen = Ticket::from_parts(bucket, name, *own.parts().2);
    assert_eq!(mint().echo(NOW, &stolen.probe().0, cookie), Err(ProbeError::Authentication));
    let elsewhere = TicketMint::new(&NodeKey::from_bytes([8; 32]));
    assert_eq!(elsewhere.echo(NOW, &ticket(1).probe().0, cookie), Err(ProbeError::Authentication));
}

/// A ticket goes through CONTROL as three fields and works afterwards.
#[test]
fn a_ticket_survives_its_parts() {
    let original = ticket(9);
    let (bucket, name, key) = original.parts();
    let (probe, awaited) = Ticket::from_parts(bucket, name, *key).probe();
    let echo = mint().echo(NOW, &probe, cookie).unwrap();
    assert!(awaited.matches(&PathEcho::parse(&echo).unwrap()));
}

/// R2.5, R3.1: the echo brings the cookie of where the probe came from, and nobody is asked for one for a forged probe.
#[test]
fn r3_1_an_echo_brings_a_cookie_for_genuine_probes_only() {
    let (probe, _) = ticket(1).probe();
    let echo = PathEcho::parse(&mint().echo(NOW, &probe, cookie).unwrap()).unwrap();
    assert_eq!(echo.cookie, cookie().0);
    let mut forged = probe;
    forged[40] ^= 1;
    assert!(mint().echo(NOW, &forged, || panic!("a cookie for a forged probe")).is_err());
}

#[test]
fn secrets_are_not_printed() {
    let (_, awaited) = ticket(1).probe();
    let printed = format!("{:?} {:?} {awaited:?}", mint(), ticket(1));
    assert_eq!(printed, "TicketMint(..) Ticket(..) AwaitedEcho(..)");
}
