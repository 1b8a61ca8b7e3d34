//! Files with name servers in a folder of the test's own: never the machine's.

use super::*;

const BEFORE: &str = "nameserver 10.0.1.53\noptions edns0\n";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new(before: Option<&str>) -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        if let Some(text) = before {
            std::fs::write(host.path(), text).unwrap();
        }
        host
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("resolv.conf")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }

    fn set(&self, interface: &str) -> io::Result<()> {
        set(&self.path(), interface, &[ip("10.77.0.1")], &[])
    }
}

/// The one before comes back with its mode, and nothing else is left.
#[test]
fn set_and_restored() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new(Some(BEFORE));
    std::fs::set_permissions(host.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
    host.set("jvpn0").unwrap();
    assert!(host.text().contains("nameserver 10.77.0.1") && is_ours(&host.path(), "jvpn0"));
    assert_eq!(host.path().metadata().unwrap().permissions().mode() & 0o777, 0o644, "everybody reads it");
    let settings = Dns { resolv_conf: host.path(), ..Dns::default() };
    assert_eq!(outside(&settings), [ip("10.0.1.53")], "the servers before are known while ours is there");
    assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::Restored);
    assert_eq!((host.text().as_str(), host.files()), (BEFORE, 1));
    assert_eq!(host.path().metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::NotOurs, "once is enough");
}

/// After a crash the next start sets it anew, and the original still comes back.
#[test]
fn set_twice_keeps_the_original() {
    let host = Host::new(Some(BEFORE));
    host.set("jvpn0").unwrap();
    host.set("jvpn0").unwrap();
    assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::Restored);
    assert_eq!((host.text().as_str(), host.files()), (BEFORE, 1));
}

/// What somebody else wrote later stays, whether they edited ours or replaced it.
#[test]
fn a_later_change_of_somebody_else_stays() {
    for theirs in ["nameserver 192.0.2.9\n".to_owned(), {
        let host = Host::new(Some(BEFORE));
        host.set("jvpn0").unwrap();
        host.text() + "nameserver 192.0.2.9\n"
    }] {
        let host = Host::new(Some(BEFORE));
        host.set("jvpn0").unwrap();
        std::fs::write(host.path(), &theirs).unwrap();
        assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::NotOurs);
        assert_eq!((host.text(), host.files()), (theirs.clone(), 1));
        // And it is what comes back next time.
        host.set("jvpn0").unwrap();
        assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::Restored);
        assert_eq!(host.text(), theirs);
    }
}

#[test]
fn a_link_is_kept_as_a_link_and_none_as_none() {
    let host = Host::new(None);
    std::fs::write(host.folder.path().join("real"), BEFORE).unwrap();
    symlink("real", host.path()).unwrap();
    host.set("jvpn0").unwrap();
    assert!(!host.path().symlink_metadata().unwrap().is_symlink());
    assert_eq!(
        std::fs::read_to_string(host.folder.path().join("real")).unwrap(),
        BEFORE,
        "what it led to stays"
    );
    restore(&host.path(), "jvpn0").unwrap();
    assert_eq!(std::fs::read_link(host.path()).unwrap(), Path::new("real"));

    let host = Host::new(None);
    host.set("jvpn0").unwrap();
    assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::Removed);
    assert_eq!(host.files(), 0);
}

/// Two agents: the second is refused, and cannot take away what the first has set.
#[test]
fn two_agents_do_not_undo_each_other() {
    let host = Host::new(Some(BEFORE));
    host.set("jvpn0").unwrap();
    assert!(host.set("jvpn1").unwrap_err().to_string().contains("jvpn0"));
    assert_eq!(restore(&host.path(), "jvpn1").unwrap(), Outcome::NotOurs);
    assert_eq!(restore(&host.path(), "jvpn0").unwrap(), Outcome::Restored);
    assert_eq!(host.text(), BEFORE);
}

/// A backup that is gone is said, and the file stays usable.
#[test]
fn a_lost_backup_is_an_error() {
    let host = Host::new(Some(BEFORE));
    host.set("jvpn0").unwrap();
    std::fs::remove_file(backup_of(&host.path())).unwrap();
    assert!(restore(&host.path(), "jvpn0").unwrap_err().to_string().contains("before-jvpn"));
    assert!(host.text().contains("10.77.0.1"));
}

#[test]
fn calls_of_resolvectl() {
    let search = ["corp.example".to_owned()];
    let calls = resolved_calls("jvpn0", &[ip("10.77.0.1"), ip("fd00::1")], &search, true);
    let lines: Vec<String> = calls.iter().map(|call| call.join(" ")).collect();
    assert_eq!(
        lines,
        ["dns jvpn0 10.77.0.1 fd00::1", "domain jvpn0 corp.example ~.", "default-route jvpn0 yes"]
    );
    assert_eq!(resolved_calls("jvpn0", &[ip("10.77.0.1")], &[], false)[1], ["domain", "jvpn0", ""]);
}

#[test]
fn what_listens_here_is_not_asked_outside() {
    let host = Host::new(Some("nameserver 127.0.0.1\nnameserver 192.0.2.53\n"));
    let settings = Dns { resolv_conf: host.path(), ..Dns::default() };
    assert_eq!(outside(&settings), [ip("192.0.2.53")]);
    let named = Dns { outside: vec![ip("192.0.2.7")], ..settings };
    assert_eq!(outside(&named), [ip("192.0.2.7")]);
    assert_eq!(way(&named), Way::File, "systemd-resolved does not decide about this file");
}
