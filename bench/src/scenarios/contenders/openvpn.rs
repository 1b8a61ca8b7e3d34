//! OpenVPN: a server and its clients over UDP, with certificates that know each other by fingerprint.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jvpn_rig::process::Supervised;
use jvpn_rig::topology::GATEWAY_WAN;
use jvpn_rig::{Namespace, TUNNEL_PORT};

use super::Kind;
use super::programs;
use super::tunnel::{Ground, PATIENCE, Tunnel};

/// Of both ends.
const COMMON: &str =
    "dev-type tun\nproto udp4\npersist-key\npersist-tun\ndata-ciphers AES-256-GCM\nfloat\nverb 3\n";

/// Makes a key and a certificate, signed by itself, and gives its fingerprint.
fn certificate(dir: &Path, name: &str) -> Result<String> {
    let file = |end: &str| dir.join(format!("{name}.{end}")).display().to_string();
    let openssl = programs::find("openssl").context("openssl is not there: apt-get install openssl")?;
    let run = |args: &[&str]| -> Result<String> {
        let said = programs::output(Command::new(&openssl).args(args), PATIENCE)?;
        ensure!(said.is_success, "openssl {}: {}", args.join(" "), said.text.trim());
        Ok(said.text)
    };
    run(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
        "-subj",
        &format!("/CN={name}"),
        "-keyout",
        &file("key"),
        "-out",
        &file("crt"),
    ])?;
    let said = run(&["x509", "-in", &file("crt"), "-noout", "-fingerprint", "-sha256"])?;
    fingerprint(&said).with_context(|| format!("openssl gave no fingerprint: {}", said.trim()))
}

/// From `sha256 Fingerprint=AA:BB:…`.
fn fingerprint(said: &str) -> Option<String> {
    let (_, value) = said.lines().find_map(|line| line.split_once("ingerprint="))?;
    let value = value.trim();
    let is_octet = |part: &str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
    (value.split(':').count() == 32 && value.split(':').all(is_octet)).then(|| value.to_owned())
}

fn credentials(dir: &Path, name: &str, trusted: &[String]) -> String {
    let dir = dir.display();
    let trusted = trusted.join("\n");
    format!(
        "cert {dir}/{name}.crt\nkey {dir}/{name}.key\n<peer-fingerprint>\n{trusted}\n</peer-fingerprint>\n"
    )
}

fn server_text(device: &str, dir: &Path, clients: &[String]) -> String {
    format!(
        "dev {device}\n{COMMON}local {GATEWAY_WAN}\nport {TUNNEL_PORT}\ntopology subnet\n\
         server 10.77.0.0 255.255.0.0\nclient-config-dir {}\npush \"route 192.168.50.0 255.255.255.0\"\n\
         keepalive 10 60\ndh none\n{}",
        dir.display(),
        credentials(dir, "server", clients)
    )
}

fn client_text(device: &str, dir: &Path, name: &str, server: &str) -> String {
    format!(
        "client\ndev {device}\n{COMMON}remote {GATEWAY_WAN} {TUNNEL_PORT}\nnobind\nresolv-retry infinite\n{}",
        credentials(dir, name, &[server.to_owned()])
    )
}

/// The line that gives a client the same address each time.
fn address_text(inner: Ipv4Addr) -> String {
    format!("ifconfig-push {inner} 255.255.0.0\n")
}

/// Server and clients.
pub(super) struct Openvpn {
    program: PathBuf,
    dir: PathBuf,
    clients: Vec<Option<Supervised>>,
    /// Absent between its death and its new start.
    server: Option<Supervised>,
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn name_of(client: usize) -> String {
    format!("client{client}")
}

impl Openvpn {
    pub(super) fn start(program: &Path, ground: &Ground<'_>) -> Result<Self> {
        let dir = ground.dir_of(Kind::Openvpn)?;
        let server = certificate(&dir, "server")?;
        let mut trusted = Vec::new();
        for (number, client) in ground.clients.iter().enumerate() {
            let name = name_of(number);
            trusted.push(certificate(&dir, &name)?);
            put(&dir.join(&name), &address_text(client.inner))?;
            let mut text = client_text(&format!("jo{}c{number}", ground.rig.id()), &dir, &name, &server);
            let _ = writeln!(text, "# one of {}", ground.clients.len());
            put(&dir.join(format!("{name}.conf")), &text)?;
        }
        put(&dir.join("server.conf"), &server_text(&format!("jo{}g", ground.rig.id()), &dir, &trusted))?;
        let server = start_end(program, &dir, "server", ground, ground.rig.gateway())?;
        let clients = ground.clients.iter().map(|_| None).collect();
        let mut tunnel = Self { program: program.to_owned(), dir, clients, server: Some(server) };
        (0..ground.clients.len()).try_for_each(|number| tunnel.start_client(ground, number))?;
        Ok(tunnel)
    }

    fn start_client(&mut self, ground: &Ground<'_>, number: usize) -> Result<()> {
        let namespace = &ground.client(number)?.namespace;
        let process = start_end(&self.program, &self.dir, &name_of(number), ground, namespace)?;
        *self.clients.get_mut(number).context("no such client")? = Some(process);
        Ok(())
    }
}

fn start_end(
    program: &Path,
    dir: &Path,
    name: &str,
    ground: &Ground<'_>,
    namespace: &Namespace,
) -> Result<Supervised> {
    let mut command = Command::new(program);
    command.arg("--config").arg(dir.join(format!("{name}.conf"))).current_dir(dir);
    ground.rig.start(&format!("openvpn {name}"), namespace, command, &dir.join(format!("{name}.log")))
}

impl Tunnel for Openvpn {
    fn gateway_pids(&self) -> Vec<u32> {
        self.server.iter().map(Supervised::pid).collect()
    }

    fn client_pids(&self) -> Vec<u32> {
        self.clients.iter().flatten().map(Supervised::pid).collect()
    }

    fn check(&mut self) -> Result<()> {
        self.server.iter_mut().chain(self.clients.iter_mut().flatten()).try_for_each(Supervised::check)
    }

    fn restart_client(&mut self, ground: &Ground<'_>, client: usize) -> Result<()> {
        if let Some(process) = self.clients.get_mut(client).and_then(Option::take) {
            process.stop()?;
        }
        self.start_client(ground, client)
    }

    fn restart_gateway(&mut self, ground: &Ground<'_>, pause: Duration) -> Result<()> {
        if let Some(process) = self.server.take() {
            process.kill()?;
        }
        thread::sleep(pause);
        self.server = Some(start_end(&self.program, &self.dir, "server", ground, ground.rig.gateway())?);
        Ok(())
    }

    fn last_words(&self) -> String {
        let all = self.server.iter().chain(self.clients.iter().flatten());
        all.map(Supervised::last_words).collect::<Vec<_>>().join("\n")
    }

    fn stop(self: Box<Self>) -> Result<()> {
        let Self { clients, server, .. } = *self;
        clients.into_iter().flatten().chain(server).try_for_each(|process| process.stop().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_found_and_nothing_else_is() {
        let value = vec!["AB"; 32].join(":");
        assert_eq!(fingerprint(&format!("noise\nsha256 Fingerprint={value}\n")), Some(value.clone()));
        assert_eq!(fingerprint(&format!("SHA256 Fingerprint={}", value.get(3..).unwrap())), None);
        assert_eq!(fingerprint("unable to load certificate"), None);
    }

    #[test]
    fn configurations_are_what_a_user_would_write() {
        let dir = Path::new("/tmp/x");
        let server = server_text("tun7", dir, &["AA".to_owned(), "BB".to_owned()]);
        for line in
            ["proto udp4", "data-ciphers AES-256-GCM", "keepalive 10 60", "float", "port 4500", "AA", "BB"]
        {
            assert!(server.lines().any(|one| one == line), "{line} in {server}");
        }
        let client = client_text("tun8", dir, "client0", "CC");
        for line in ["client", "remote 198.51.100.1 4500", "nobind", "cert /tmp/x/client0.crt", "CC"] {
            assert!(client.lines().any(|one| one == line), "{line} in {client}");
        }
        assert!(!client.contains("tun-mtu") && !server.contains("cipher none"));
        assert_eq!(address_text(Ipv4Addr::new(10, 77, 0, 2)), "ifconfig-push 10.77.0.2 255.255.0.0\n");
    }
}
