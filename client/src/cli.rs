//! The command line of `jvpn`.

use crate::config::Config;
use crate::{host, io, show};
use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use jvpn_crypto::keys::StaticSecret;
use jvpn_crypto::rng::OsRandom;
use jvpn_host::status::StatusError;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long an agent may take to end: it waits for nobody, so this is for a host that is very busy.
const DOWN_PATIENCE: Duration = Duration::from_secs(60);

/// Sockets that `status` asks when none is named.
const DEFAULT_SOCKETS: [&str; 3] =
    ["/run/jvpn/agent.sock", "/run/jvpn/controlplane-status.sock", "/run/jvpn/dataplane-status.sock"];

/// A VPN whose sessions survive the death of their path.
///
/// The session is the anchor: its identity stays the same while the transport underneath changes. The agent watches the
/// bound uplink, notices within a few probe intervals that it is dead, and moves the session to another uplink; TCP
/// connections inside the tunnel go on.
#[derive(Debug, Parser)]
#[command(name = "jvpn", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Getting started:
  umask 077
  jvpn genkey > client.key                 a secret key; keep it on this host
  jvpn pubkey < client.key                 the public key; the gateway's operator adds it as [[peer]]
  jvpn up --config client.toml             run in the foreground; Ctrl-C ends the session and cleans up
  jvpn status                              state, path, round-trip time, loss, counters

A configuration file:
  [interface]
  private_key_file = \"client.key\"
  [gateway]
  public_key = \"<the gateway's public key>\"
  endpoint = \"198.51.100.1:4500\"
  [[uplink]]
  device = \"eth0\"
  [[uplink]]
  device = \"wwan0\"

JVPN_LOG=debug shows more.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a new secret key to standard output
    #[command(after_help = "Example:\n  (umask 077; jvpn genkey > client.key)")]
    Genkey,
    /// Read a secret key from standard input, write its public key
    #[command(after_help = "Example:\n  jvpn pubkey < client.key")]
    Pubkey,
    /// Bring the tunnel up and keep it up, in the foreground
    ///
    /// SIGINT, SIGTERM, SIGHUP or `jvpn down` end the session, remove the device, routes and rules, and exit with 0. So
    /// does SIGUSR2, but a kill switch stays, for the next agent to take over; with kill_switch = "always" only
    /// `jvpn down` removes it.
    #[command(after_help = "Example:\n  jvpn up --config /etc/jvpn/client.toml")]
    Up {
        /// The client's configuration (TOML)
        #[arg(long, short, value_name = "FILE")]
        config: PathBuf,
    },
    /// End the tunnel of a running agent
    ///
    /// Returns when it has ended and device, routes, rules, kill switch and name servers are as before; says what is left
    /// if something is. Where the agent is dead, what it left is taken back: a kill switch holds traffic until then.
    Down {
        /// The agent's status socket
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKETS[0])]
        socket: PathBuf,
        /// The agent's configuration: names the socket, and what to take back where a dead agent's record is damaged
        #[arg(long, short, value_name = "FILE", conflicts_with = "socket")]
        config: Option<PathBuf>,
    },
    /// When the host starts: put back the name servers that an agent had set when the host lost its power
    ///
    /// Touches nothing of this boot: not a running agent, and no kill switch.
    #[command(after_help = "Example:\n  jvpn restore")]
    Restore {
        /// The agent's status socket: names the record of what to put back
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKETS[0])]
        socket: PathBuf,
        /// The agent's configuration: names the socket, and what to put back where the record is damaged
        #[arg(long, short, value_name = "FILE", conflicts_with = "socket")]
        config: Option<PathBuf>,
    },
    /// Show what an agent, control plane or data plane is doing
    ///
    /// Without --socket all default sockets are tried, and each that answers is shown.
    #[command(after_help = "Examples:\n  jvpn status\n  jvpn status --json --socket /run/jvpn/agent.sock")]
    Status {
        /// The process's answer as it is, one JSON document per socket
        #[arg(long)]
        json: bool,
        /// A status socket
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// The data plane's default socket alone: its workers, rings, counters and the traffic of each binding
        #[arg(long, conflicts_with = "socket")]
        dataplane: bool,
    },
    /// On a gateway: list its sessions
    #[command(after_help = "Example:\n  jvpn sessions")]
    Sessions {
        #[command(flatten)]
        gateway: Gateway,
    },
    /// On a gateway: show one session, with --timeline its last transitions
    #[command(after_help = "Example:\n  jvpn session 00112233445566778899aabbccddeeff --timeline")]
    Session {
        /// SessionId, as 'jvpn sessions' shows it
        id: String,
        /// The last transitions too: when, from, to, reason, state_version
        #[arg(long)]
        timeline: bool,
        #[command(flatten)]
        gateway: Gateway,
    },
    /// On a gateway: end a session
    #[command(
        after_help = "Example:\n  jvpn terminate 00112233445566778899aabbccddeeff --reason 'lost laptop'"
    )]
    Terminate {
        /// SessionId
        id: String,
        /// Your reason, for the gateway's logs: its first 256 characters stand in the audit event
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        gateway: Gateway,
    },
    /// On a gateway: change who may connect
    #[command(subcommand)]
    Peers(Peers),
    /// Look at a policy before a gateway gets it
    #[command(subcommand)]
    Policy(PolicyCommand),
}

/// Which gateway, and how to show its answer.
#[derive(Debug, clap::Args)]
struct Gateway {
    /// The control plane's status socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKETS[1])]
    socket: PathBuf,
    /// The answer as it is, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Peers {
    /// Read peers_file again: add, change, remove peers without touching the others
    ///
    /// A peer that is gone from the file loses its sessions (KEY_REVOKED); one with other addresses or another
    /// pre-shared key must connect anew. A file with a mistake changes nothing.
    Reload {
        #[command(flatten)]
        gateway: Gateway,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Check a policy file (the content of [policy]) against its bounds and print what it amounts to
    #[command(after_help = "Example:\n  jvpn policy check policy.toml")]
    Check {
        /// TOML with preset and overrides
        file: PathBuf,
    },
}

/// Runs the command line; errors go to standard error with what to do next.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to read it.
            let _unread = writeln!(std::io::stderr(), "jvpn: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Genkey => genkey(),
        Command::Pubkey => pubkey(),
        Command::Up { config } => up(&config),
        Command::Down { socket, config: None } => down(&socket, None),
        Command::Down { config: Some(path), .. } => {
            let config = Config::load(&path)?;
            down(&config.status_socket, Some(&config))
        }
        Command::Restore { socket, config: None } => restore(&socket, None),
        Command::Restore { config: Some(path), .. } => {
            let config = Config::load(&path)?;
            restore(&config.status_socket, Some(&config))
        }
        Command::Status { json, dataplane: true, .. } => status(json, Some(Path::new(DEFAULT_SOCKETS[2]))),
        Command::Status { json, socket, .. } => status(json, socket.as_deref()),
        Command::Sessions { gateway } => gateway.show("sessions", &[]),
        Command::Session { id, timeline, gateway } => {
            gateway.show(&format!("session {id}"), if timeline { &[] } else { &["timeline"] })
        }
        Command::Terminate { id, reason, gateway } => gateway.show(&format!("terminate {id} {reason}"), &[]),
        Command::Peers(Peers::Reload { gateway }) => gateway.show("reload-peers", &[]),
        Command::Policy(PolicyCommand::Check { file }) => check_policy(&file),
    }
}

impl Gateway {
    /// Asks, and prints the answer without the fields in `hidden`; an error in it is this command's error.
    fn show(&self, request: &str, hidden: &[&str]) -> anyhow::Result<()> {
        let mut answer = jvpn_host::status::query(&self.socket, request)?;
        if let Some(message) = answer.get("error").and_then(serde_json::Value::as_str) {
            bail!("{message}");
        }
        if let Some(fields) = answer.as_object_mut() {
            fields.retain(|key, _| !hidden.contains(&key.as_str()));
        }
        print_line(&if self.json { answer.to_string() } else { show::text(&self.socket, &answer) })
    }
}

fn check_policy(path: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let policy =
        jvpn_session::Policy::from_toml(&text).with_context(|| format!("policy {}", path.display()))?;
    print_line(&format!("{} is valid:\n{policy:#?}", path.display()))
}

fn genkey() -> anyhow::Result<()> {
    let secret = StaticSecret::generate(&mut OsRandom::checked()?)?;
    if std::io::stdout().is_terminal() {
        writeln!(std::io::stderr(), "jvpn: this is a secret; better: (umask 077; jvpn genkey > client.key)")?;
    }
    print_line(&secret.to_base64())
}

fn pubkey() -> anyhow::Result<()> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin()
        .take(4_096)
        .read_to_string(&mut text)
        .context("cannot read a key from standard input")?;
    let secret: StaticSecret = text
        .trim()
        .parse()
        .context("standard input is not a secret key as 'jvpn genkey' makes it: jvpn pubkey < client.key")?;
    print_line(&secret.public().to_string())
}

fn up(path: &Path) -> anyhow::Result<()> {
    jvpn_host::logging::init();
    let config = Config::load(path)?;
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "'jvpn up' makes a network device and routes and must run as root: sudo jvpn up --config {}",
            path.display()
        );
    }
    io::run(&config)
}

fn down(socket: &Path, config: Option<&Config>) -> anyhow::Result<()> {
    let answer = jvpn_host::status::query_within(socket, "down", DOWN_PATIENCE);
    if let Err(StatusError::Unreachable { .. }) = &answer {
        let done = host::undo(socket, config).map_err(|left| {
            anyhow::anyhow!(
                "no agent runs at {}, and not all that it left could be taken back: {left}",
                socket.display()
            )
        })?;
        if let Some(done) = done {
            let done = done.join(", ");
            return print_line(&format!("no agent runs at {}; taken back: {done}", socket.display()));
        }
    }
    let answer = answer.context("the agent was asked to end, and did not say that it has")?;
    match (answer.get("ok").and_then(serde_json::Value::as_bool), answer.get("left")) {
        (Some(true), _) => Ok(()),
        (_, Some(left)) => bail!(
            "the agent at {} has ended, but this is still there: {left}; 'jvpn down' tries again, and \
             the next 'jvpn up' removes it",
            socket.display()
        ),
        (_, None) => bail!("the process at {} did not end: {answer}", socket.display()),
    }
}

fn restore(socket: &Path, config: Option<&Config>) -> anyhow::Result<()> {
    let own = socket.display();
    match jvpn_host::status::query(socket, "status") {
        Err(StatusError::Unreachable { .. }) => {}
        Ok(_) | Err(_) => return print_line(&format!("an agent runs at {own}; nothing was put back")),
    }
    let found = host::restore(socket, config).map_err(|left| {
        anyhow::anyhow!("not all that the agent of {own} had set could be put back: {left}")
    })?;
    match found {
        host::Found::Nothing => print_line(&format!("nothing to put back of an agent at {own}")),
        host::Found::TakenBack(done) => print_line(&done.join(", ")),
        host::Found::OfThisBoot => {
            print_line(&format!("what the agent of {own} left is of this boot: 'jvpn down' takes it back"))
        }
    }
}

fn status(json: bool, socket: Option<&Path>) -> anyhow::Result<()> {
    let named = socket.is_some();
    let sockets: Vec<&Path> = socket.map_or_else(|| DEFAULT_SOCKETS.map(Path::new).into(), |one| vec![one]);
    let mut shown = 0;
    for path in sockets {
        match jvpn_host::status::query(path, "status") {
            Ok(document) if json => print_line(&document.to_string())?,
            Ok(document) => print_line(&show::text(path, &document))?,
            Err(error) if named => return Err(error.into()),
            Err(_) => continue,
        }
        shown += 1;
    }
    if shown == 0 {
        bail!(
            "nothing of Jumping VPN answers at {}; is it running? name another socket with --socket",
            DEFAULT_SOCKETS.join(", ")
        );
    }
    Ok(())
}

/// One line to standard output. A reader that has gone (`| head`) is no error.
fn print_line(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_teaches() {
        Cli::command().debug_assert();
        let help = Cli::command().render_long_help().to_string();
        for word in [
            "genkey",
            "pubkey",
            "up",
            "down",
            "status",
            "sessions",
            "terminate",
            "peers",
            "policy",
            "[[uplink]]",
            "umask 077",
        ] {
            assert!(help.contains(word), "--help does not mention {word}");
        }
        assert!(Cli::try_parse_from(["jvpn", "up"]).is_err(), "a configuration must be named");
        assert!(Cli::try_parse_from(["jvpn", "down", "--config", "/x"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn", "restore"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn", "down", "--config", "/x", "--socket", "/y"]).is_err());
        assert!(Cli::try_parse_from(["jvpn", "status", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn", "status", "--dataplane", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["jvpn", "status", "--dataplane", "--socket", "/x"]).is_err());
    }
}
