//! Dropping to an unprivileged user without any capability, for good.

use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

/// Why privileges could not be dropped. The process must then not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// No such user.
    #[error("user '{0}' does not exist on this host; create it or name another one in the configuration")]
    NoSuchUser(String),
    /// The configured user is root.
    #[error("user '{0}' is root; name an unprivileged user in the configuration")]
    IsRoot(String),
    /// The configured user is one that other services share.
    #[error(
        "user '{0}' is shared by other services, which could then take the gateway over; make one of its own: \
             'adduser --system --group jvpn'"
    )]
    Shared(String),
    /// A system call failed.
    #[error("cannot drop to user '{user}': {step}: {cause}")]
    System {
        /// The user.
        user: String,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Something is left after dropping.
    #[error("after dropping to '{0}' the process still holds capabilities; refusing to run")]
    StillPrivileged(String),
}

/// `nobody` (Debian policy §9.2.2): whatever runs as it can read this process's files and signal it.
const SHARED_UID: u32 = 65_534;

/// A user by name or by number.
///
/// # Errors
/// If there is no such user, or it is root.
pub fn lookup(user: &str) -> Result<(Uid, Gid), PrivilegeError> {
    let missing = || PrivilegeError::NoSuchUser(user.to_owned());
    let found = match user.parse::<u32>() {
        Ok(number) => (Uid::from_raw(number), Gid::from_raw(number)),
        Err(_) => {
            let entry = User::from_name(user).ok().flatten().ok_or_else(missing)?;
            (entry.uid, entry.gid)
        }
    };
    if found.0.is_root() {
        return Err(PrivilegeError::IsRoot(user.to_owned()));
    }
    if found.0.as_raw() == SHARED_UID {
        return Err(PrivilegeError::Shared(user.to_owned()));
    }
    Ok(found)
}

/// Gives up user, groups and every capability, and forbids to gain any again. Call before threads are started.
///
/// A process that is not root only clears what it has.
///
/// # Errors
/// If any step fails or a capability is left; the caller must then end.
pub fn drop_to(user: &str) -> Result<(), PrivilegeError> {
    let system = |step| {
        move |cause: nix::Error| PrivilegeError::System { user: user.to_owned(), step, cause: cause.into() }
    };
    if Uid::effective().is_root() {
        let (uid, gid) = lookup(user)?;
        // The bounding set first: it needs CAP_SETPCAP, which goes with the user.
        caps::clear(None, caps::CapSet::Bounding).map_err(|error| PrivilegeError::System {
            user: user.to_owned(),
            step: "clear bounding set",
            cause: std::io::Error::other(error.to_string()),
        })?;
        setgroups(&[]).map_err(system("setgroups"))?;
        setresgid(gid, gid, gid).map_err(system("setresgid"))?;
        setresuid(uid, uid, uid).map_err(system("setresuid"))?;
    }
    for set in
        [caps::CapSet::Ambient, caps::CapSet::Effective, caps::CapSet::Inheritable, caps::CapSet::Permitted]
    {
        caps::clear(None, set).map_err(|error| PrivilegeError::System {
            user: user.to_owned(),
            step: "clear capabilities",
            cause: std::io::Error::other(error.to_string()),
        })?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(system("no_new_privs"))?;
    nix::sys::prctl::set_dumpable(false).map_err(system("dumpable off"))?;
    let left = caps::read(None, caps::CapSet::Permitted).map_or(true, |set| !set.is_empty());
    if left || Uid::effective().is_root() {
        return Err(PrivilegeError::StillPrivileged(user.to_owned()));
    }
    Ok(())
}
