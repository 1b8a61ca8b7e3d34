//! Which crate may import which (docs/ARCHITECTURE.md, Imports), read from the manifests.

use super::Finding;

const LIBRARIES: &[&str] =
    &["jvpn-abi", "jvpn-crypto", "jvpn-host", "jvpn-session", "jvpn-tables", "jvpn-testing"];
const ALL: &[&str] = &[
    "jvpn-abi",
    "jvpn-client",
    "jvpn-controlplane",
    "jvpn-crypto",
    "jvpn-dataplane",
    "jvpn-host",
    "jvpn-rig",
    "jvpn-session",
    "jvpn-tables",
    "jvpn-testing",
];

/// Manifest → those of our crates that it may name, for tests as well. The planes never import each other.
const ALLOWED: [(&str, &[&str]); 16] = [
    ("common/abi/Cargo.toml", &[]),
    ("common/crypto/Cargo.toml", &["jvpn-abi"]),
    ("common/session/Cargo.toml", &["jvpn-abi", "jvpn-crypto"]),
    ("common/host/Cargo.toml", &["jvpn-abi"]),
    ("common/tables/Cargo.toml", &["jvpn-abi"]),
    ("common/testing/Cargo.toml", &[]),
    ("xdp-ebpf/Cargo.toml", &["jvpn-abi"]),
    ("dataplane/Cargo.toml", &["jvpn-abi", "jvpn-crypto", "jvpn-host", "jvpn-tables", "jvpn-testing"]),
    ("controlplane/Cargo.toml", LIBRARIES),
    ("client/Cargo.toml", LIBRARIES),
    ("bench/Cargo.toml", ALL),
    ("bench/rig/Cargo.toml", &["jvpn-abi", "jvpn-host"]),
    ("bench/fuzz/Cargo.toml", ALL),
    ("bench/loom/Cargo.toml", ALL),
    ("fuzz/Cargo.toml", &["jvpn-fuzz"]),
    ("xtask/Cargo.toml", &[]),
];

pub(super) fn check(path: &str, manifest: &str) -> Vec<Finding> {
    let dependencies = dependencies(manifest);
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == path) else {
        let is_crate = manifest.lines().any(|line| line.trim() == "[package]");
        let text = "a crate without a row in xtask/src/tidy/imports.rs: say what it may import";
        return if is_crate { vec![Finding::failure(path, text)] } else { Vec::new() };
    };
    let mut findings = Vec::new();
    for Dependency { name, kind, line } in &dependencies {
        if name.starts_with("jvpn-") && !allowed.contains(&name.as_str()) {
            findings.push(Finding::failure(
                path,
                format!("may not import {name} (docs/ARCHITECTURE.md, Imports)"),
            ));
        }
        if path == "common/abi/Cargo.toml" && *kind == Kind::Normal && name != "bytemuck" {
            findings.push(Finding::failure(
                path,
                format!("the contracts depend on bytemuck only, not on {name}"),
            ));
        }
        if path == "dataplane/Cargo.toml"
            && name == "jvpn-crypto"
            && *kind == Kind::Normal
            && line.contains("\"handshake\"")
        {
            findings.push(Finding::failure(path, "the data plane does without the feature handshake"));
        }
    }
    findings
}

#[derive(Debug, PartialEq, Eq)]
struct Dependency {
    /// Of the package, where the manifest renames it.
    name: String,
    kind: Kind,
    /// Everything that the manifest says about it.
    line: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Build,
    Dev,
}

/// The dependencies of a manifest, those of the workspace table left out. Reads the forms that this tree uses:
/// `name = …`, `name.workspace = true` and `[dependencies.name]`.
fn dependencies(manifest: &str) -> Vec<Dependency> {
    let mut found: Vec<Dependency> = Vec::new();
    let mut section = None;
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            section = section_kind(header.trim_end_matches(']'));
            if let Some((kind, Some(name))) = &section {
                found.push(Dependency { name: name.clone(), kind: *kind, line: String::new() });
            }
            continue;
        }
        match &section {
            Some((kind, None)) => {
                if let Some((key, value)) = line.split_once('=')
                    && !key.contains(['"', '{', '['])
                {
                    let name = key.split('.').next().unwrap_or(key).trim();
                    let name = renamed(value).unwrap_or(name).to_owned();
                    found.push(Dependency { name, kind: *kind, line: line.to_owned() });
                } else if let Some(last) = found.last_mut() {
                    last.line.push_str(line);
                }
            }
            Some((_, Some(_))) => {
                if let Some(last) = found.last_mut() {
                    last.line.push_str(line);
                    if let Some(name) = line.strip_prefix("package = ") {
                        last.name = name.trim_matches('"').to_owned();
                    }
                }
            }
            None => {}
        }
    }
    found
}

/// Kind and, for `dependencies.name`, the name of a section.
fn section_kind(header: &str) -> Option<(Kind, Option<String>)> {
    if header.starts_with("workspace") {
        return None;
    }
    for (word, kind) in
        [("dev-dependencies", Kind::Dev), ("build-dependencies", Kind::Build), ("dependencies", Kind::Normal)]
    {
        if header == word || header.ends_with(&format!(".{word}")) {
            return Some((kind, None));
        }
        if let Some((before, name)) = header.rsplit_once('.')
            && (before == word || before.ends_with(&format!(".{word}")))
        {
            return Some((kind, Some(name.to_owned())));
        }
    }
    None
}

fn renamed(value: &str) -> Option<&str> {
    let (_, rest) = value.split_once("package = \"")?;
    rest.split_once('"').map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, manifest: &str) -> Vec<String> {
        check(path, manifest).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn dependencies_are_read_in_every_form() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\n# b = \"1\"\nc = { path = \"../c\", \
                        package = \"jvpn-c\" }\n[dev-dependencies]\nd = \"1\"\n[target.'cfg(unix)'.dependencies]\ne = \
                        \"1\"\n[dependencies.f]\nversion = \"1\"\n[workspace.dependencies]\ng = \"1\"\n[lints]\nworkspace = true\n";
        let names: Vec<_> = dependencies(manifest).into_iter().map(|d| (d.name, d.kind)).collect();
        let expected = [
            ("a", Kind::Normal),
            ("jvpn-c", Kind::Normal),
            ("d", Kind::Dev),
            ("e", Kind::Normal),
            ("f", Kind::Normal),
        ];
        assert_eq!(names, expected.map(|(name, kind)| (name.to_owned(), kind)));
    }

    #[test]
    fn the_planes_do_not_import_each_other() {
        let control = "[dependencies]\njvpn-controlplane.workspace = true\n";
        let data = "[dev-dependencies]\njvpn-dataplane = { workspace = true }\n";
        assert_eq!(texts("dataplane/Cargo.toml", control).len(), 1);
        assert_eq!(texts("controlplane/Cargo.toml", data).len(), 1);
        assert_eq!(texts("dataplane/Cargo.toml", "[dependencies]\njvpn-session.workspace = true\n").len(), 1);
        assert!(texts("bench/Cargo.toml", &format!("{control}{data}")).is_empty());
        assert_eq!(texts("xtask/Cargo.toml", "[dependencies]\njvpn-abi.workspace = true\n").len(), 1);
    }

    #[test]
    fn the_contracts_depend_on_bytemuck_only() {
        let manifest = "[dependencies]\nbytemuck.workspace = true\nserde = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        assert_eq!(
            texts("common/abi/Cargo.toml", manifest),
            ["the contracts depend on bytemuck only, not on serde"]
        );
    }

    #[test]
    fn the_data_plane_does_without_the_handshake() {
        let with = "[dependencies]\njvpn-crypto = { workspace = true, features = [\n    \"aws-lc\",\n    \"handshake\",\n] }\n";
        let without = "[dependencies]\njvpn-crypto = { workspace = true, features = [\"aws-lc\"] }\n";
        assert_eq!(texts("dataplane/Cargo.toml", with).len(), 1);
        assert!(texts("dataplane/Cargo.toml", without).is_empty());
    }

    #[test]
    fn a_new_crate_must_be_placed() {
        assert_eq!(texts("common/new/Cargo.toml", "[package]\nname = \"new\"\n").len(), 1);
        assert!(texts("Cargo.toml", "[workspace]\n").is_empty());
    }
}
