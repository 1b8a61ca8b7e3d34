//! Dead files: a `.rs` file that no `mod` leads to is compiled by nobody.

use std::collections::HashSet;

use super::{Finding, Sources, code};

/// Files that neither cargo takes as the root of a target nor a module of such a root reaches.
pub(super) fn unreached(sources: &Sources) -> Vec<Finding> {
    let roots = roots(sources);
    let mut queue: Vec<String> = roots.iter().cloned().collect();
    let mut reached = roots.clone();
    while let Some(path) = queue.pop() {
        let Some(text) = sources.text_of(&path) else { continue };
        for next in children(&path, text, roots.contains(&path)) {
            if sources.text_of(&next).is_some() && reached.insert(next.clone()) {
                queue.push(next);
            }
        }
    }
    sources
        .files
        .iter()
        .filter(|file| file.path.ends_with(".rs") && !reached.contains(&file.path))
        .map(|file| Finding::failure(&file.path, "no module leads to this file: declare it or remove it"))
        .collect()
}

/// Roots of targets: those that cargo finds by name, and those that a manifest names.
fn roots(sources: &Sources) -> HashSet<String> {
    let mut roots = HashSet::new();
    for manifest in sources.files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let dir = manifest.path.trim_end_matches("Cargo.toml");
        for file in &sources.files {
            if file.path.strip_prefix(dir).is_some_and(is_root_by_name) {
                roots.insert(file.path.clone());
            }
        }
        for line in manifest.text.lines() {
            if let Some(path) = line.trim().strip_prefix("path = \"").and_then(|rest| rest.strip_suffix('"'))
            {
                roots.insert(resolve(dir, path));
            }
        }
    }
    roots
}

fn is_root_by_name(path: &str) -> bool {
    if matches!(path, "src/lib.rs" | "src/main.rs" | "build.rs") {
        return true;
    }
    ["src/bin/", "tests/", "benches/", "examples/"].iter().filter_map(|dir| path.strip_prefix(dir)).any(
        |rest| {
            let depth = rest.matches('/').count();
            depth == 0 && rest.ends_with(".rs") || depth == 1 && rest.ends_with("/main.rs")
        },
    )
}

/// The files that `text` at `path` may bring in by `mod`, `#[path]` and `include!`.
fn children(path: &str, text: &str, is_root: bool) -> Vec<String> {
    let (dir, name) = path.rsplit_once('/').map_or(("", path), |(dir, name)| (dir, name));
    let stem = name.trim_end_matches(".rs");
    let module_dir = if is_root || stem == "mod" { dir.to_owned() } else { join(dir, stem) };
    let mut found = Vec::new();
    // An inline `mod a { mod b; }` puts b one directory deeper; the depth is known by its braces.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    for line in code::without_comments_and_strings(text).lines() {
        let mut words =
            line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
        let module = words.by_ref().find(|word| *word == "mod").and_then(|_| words.next());
        if let Some(module) = module {
            let parents: Vec<&str> = inline.iter().map(|(name, _)| name.as_str()).collect();
            let base = parents.iter().fold(module_dir.clone(), |base, parent| join(&base, parent));
            if line.contains('{') {
                inline.push((module.to_owned(), depth));
            } else {
                found.push(join(&base, &format!("{module}.rs")));
                found.push(join(&base, &format!("{module}/mod.rs")));
            }
        }
        for c in line.chars() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth = depth.saturating_sub(1);
                    inline.retain(|(_, opened)| *opened < depth);
                }
                _ => {}
            }
        }
    }
    for line in text.lines().map(str::trim) {
        let named = ["#[path = \"", "include!(\""].iter().find_map(|start| line.split_once(start));
        if let Some((_, rest)) = named
            && let Some((file, _)) = rest.split_once('"')
        {
            found.push(resolve(&join(dir, ""), file));
        }
    }
    found
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// `path` seen from `dir`, with its `..` taken out.
fn resolve(dir: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        unreached(&Sources::of(files)).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn modules_are_followed_in_both_layouts() {
        let files = [
            ("a/Cargo.toml", "[package]"),
            (
                "a/src/lib.rs",
                "mod one;\npub(crate) mod two;\n// mod dead;\nmod inner {\n    mod deep;\n}\nmod after;",
            ),
            ("a/src/one.rs", "mod below;"),
            ("a/src/one/below.rs", ""),
            ("a/src/two/mod.rs", "mod beside;"),
            ("a/src/two/beside.rs", ""),
            ("a/src/inner/deep.rs", ""),
            ("a/src/after.rs", ""),
            ("a/src/dead.rs", ""),
        ];
        assert_eq!(dead(&files), ["a/src/dead.rs"]);
    }

    #[test]
    fn targets_and_named_paths_are_roots() {
        let files = [
            ("a/Cargo.toml", "[[bin]]\npath = \"cmd/tool.rs\""),
            ("a/build.rs", "#[path = \"../b/src/shared.rs\"]\nmod shared;"),
            ("a/cmd/tool.rs", ""),
            ("a/tests/ns_demo.rs", "mod common;"),
            ("a/tests/common/mod.rs", ""),
            ("a/tests/data/stray.rs", ""),
            ("a/benches/seal.rs", ""),
            ("b/src/shared.rs", ""),
        ];
        assert_eq!(dead(&files), ["a/tests/data/stray.rs"]);
    }
}
