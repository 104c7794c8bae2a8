//! Files of one crate that import each other: a circle can only be understood, tested and moved as a whole.
//!
//! Imports are read from the sources (`use` trees, and paths that start with `crate`, `super` or `self`). A file
//! and the files in its folder may import each other. It does not see imports through a macro or a re-export.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, sources};

/// Circles that are still there: crate, and files. The list is exact, so that it can only shrink.
const OPEN: &[(&str, &[&str])] = &[
    ("custody", &["cli", "commands::clickhouse", "commands::verify", "demo::run"]),
    ("custody", &["services::health", "services::supervise"]),
    ("sinks", &["clickhouse::intent", "publication"]),
    ("sinks", &["parquet::inspect", "parquet::verify"]),
    ("sinks", &["parquet::range", "parquet::read"]),
    ("sinks", &["parquet::store::config", "parquet::store::protection"]),
];

/// A module's path within its crate; empty for the crate's root.
type Module = Vec<String>;

/// Crate and module of a production file.
fn module_of(file: &Source) -> Option<(String, Module)> {
    if !file.is_rust() || file.is_test() || file.path.contains("/examples/") {
        return None;
    }
    let (before, inside) = file.path.split_once("src/")?;
    let mut module: Module = inside.strip_suffix(".rs")?.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|name| ["lib", "main", "mod"].contains(&name.as_str())) {
        module.pop();
    }
    let name = before.trim_end_matches('/');
    Some((if name.is_empty() { "custody" } else { name }.to_owned(), module))
}

/// Names and punctuation of a file's code, without comments, strings and its test module.
fn tokens(file: &Source) -> Vec<String> {
    let code = file.code();
    let (mut tokens, mut rest) = (Vec::new(), code);
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("'\"'") {
            3
        } else if let Some(len) = raw_string_len(rest) {
            len
        } else if first == '"' {
            string_len(rest)
        } else if name > 0 {
            tokens.push(rest[..name].to_owned());
            name
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if "{},;".contains(first) {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

/// Length of the string literal that `text` begins with.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let ends = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// Length of the raw string literal that `text` begins with.
fn raw_string_len(text: &str) -> Option<usize> {
    let marks = text.strip_prefix('r')?.bytes().take_while(|b| *b == b'#').count();
    let content = text[1 + marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    Some(2 + marks + content.find(&end).map_or(content.len(), |at| at + end.len()))
}

/// Paths that a file names: those of its `use` trees, and those in its code.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at = tree(tokens, at + 1, &[], &mut found);
        } else {
            let (path, next) = path(tokens, at);
            if path.len() > 1 {
                found.push(path);
            }
            at = next.max(at + 1);
        }
    }
    found
}

/// The names that `::` joins from `at` on, and where what follows them begins.
fn path(tokens: &[String], at: usize) -> (Vec<String>, usize) {
    let is_name = |at: usize| tokens.get(at).is_some_and(|t| !["::", "{", "}", ",", ";"].contains(&t.as_str()));
    let (mut path, mut next) = (Vec::new(), at);
    while is_name(next) {
        path.push(tokens[next].clone());
        next += 1;
        if tokens.get(next).map(String::as_str) != Some("::") || !is_name(next + 1) {
            break;
        }
        next += 1;
    }
    (path, next)
}

/// Adds the paths of a `use` tree below `prefix`; where what follows it begins.
fn tree(tokens: &[String], at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    if tokens.get(at).is_some_and(|t| t == "}") {
        // Behind a trailing comma.
        return at;
    }
    let (names, mut next) = path(tokens, at);
    let whole = [prefix, &names].concat();
    if tokens.get(next).map(String::as_str) == Some("::") {
        next += 1;
    }
    if tokens.get(next).map(String::as_str) != Some("{") {
        found.push(whole);
        // What an `as` renames to is no path.
        while tokens.get(next).is_some_and(|t| ![",", ";", "}"].contains(&t.as_str())) {
            next += 1;
        }
        return next;
    }
    while tokens.get(next).is_some_and(|t| t == "{" || t == ",") {
        next = tree(tokens, next + 1, &whole, found);
    }
    next + 1
}

/// The file of the crate that a path of `module` leads to.
fn target<'a>(module: &Module, path: &[String], files: &'a BTreeMap<Module, BTreeSet<Module>>) -> Option<&'a Module> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let (base, names) = match path.first().map(String::as_str)? {
        "crate" => (&module[..0], &path[1..]),
        "self" => (&module[..], &path[1..]),
        "super" => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
        _ => return None,
    };
    let whole = [base, names].concat();
    (1..=whole.len()).rev().find_map(|len| files.get_key_value(&whole[..len]).map(|(file, _)| file))
}

/// Circles by crate: sorted files, each once.
fn circles(sources: &[Source]) -> BTreeSet<(String, Vec<String>)> {
    let mut crates: BTreeMap<String, BTreeMap<Module, BTreeSet<Module>>> = BTreeMap::new();
    let files: Vec<(String, Module, &Source)> =
        sources.iter().filter_map(|file| module_of(file).map(|(name, module)| (name, module, file))).collect();
    for (name, module, _) in &files {
        crates.entry(name.clone()).or_default().insert(module.clone(), BTreeSet::new());
    }
    for (name, module, file) in &files {
        let known = &crates[name];
        let is_kin = |to: &Module| to.starts_with(module) || module.starts_with(to);
        let imports: BTreeSet<Module> = paths(&tokens(file))
            .iter()
            .filter_map(|path| target(module, path, known))
            .filter(|to| !is_kin(to))
            .cloned()
            .collect();
        crates.entry(name.clone()).or_default().entry(module.clone()).or_default().extend(imports);
    }
    let mut found = BTreeSet::new();
    for (name, edges) in &crates {
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            edges.keys().map(|from| (from, reached(from, edges))).collect();
        for (from, to) in &reach {
            let circle: Vec<String> =
                to.iter().filter(|file| reach[*file].contains(from)).map(|file| file.join("::")).collect();
            if circle.len() > 1 {
                found.insert((name.clone(), circle));
            }
        }
    }
    found
}

/// Every file that `from` imports, directly or through others.
fn reached<'a>(from: &'a Module, edges: &'a BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<&'a Module> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        next.extend(edges.get(file).into_iter().flatten().filter(|to| seen.insert(*to)));
    }
    seen
}

/// What is wrong: circles that are not open, and open ones that are no more.
fn violations(sources: &[Source], open: &[(&str, &[&str])]) -> Vec<String> {
    let found = circles(sources);
    let open: BTreeSet<(String, Vec<String>)> = open
        .iter()
        .map(|(name, files)| ((*name).to_owned(), files.iter().map(|file| (*file).to_owned()).collect()))
        .collect();
    let new = found.difference(&open).map(|(name, files)| {
        format!("{name}: {} import each other: move what both need into a file of its own", files.join(", "))
    });
    let gone = open
        .difference(&found)
        .map(|(name, files)| format!("{name}: {} are no circle (any more): take them off `OPEN`", files.join(", ")));
    new.chain(gone).collect()
}

#[test]
fn files_of_a_crate_import_each_other_in_no_new_circle() {
    let broken = violations(&sources(), OPEN);
    assert!(broken.is_empty(), "{} violations:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn the_rule_can_fail() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let found: Vec<String> = circles(&sources).into_iter().map(|(_, files)| files.join(" ")).collect();
        assert_eq!(found, expected, "{files:?}");
    };
    let a = ("x/src/g/a.rs", "use std::fmt;\nuse super::{b::{self, B as C}, d};\n");
    check(&[a, ("x/src/g/b.rs", "fn f() -> crate::g::a::A {}\n")], &["g::a g::b"]);
    check(
        &[a, ("x/src/g/b.rs", "pub use super::d::D;\n"), ("x/src/g/d.rs", "use crate::g::a;\n")],
        &["g::a g::b g::d"],
    );
    // One way, another crate, a comment, a string and a test are no circle; nor are a file and its folder.
    check(&[a, ("x/src/g/b.rs", "use crate::g::d::D;\n"), ("y/src/g/d.rs", "use super::a;\n")], &[]);
    check(&[a, ("x/src/g/b.rs", "// super::a::A\nconst A: &str = \"\\\"super::a::A\";\n")], &[]);
    check(&[a, ("x/src/g/b.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}\n")], &[]);
    check(&[a, ("x/src/g/b/tests.rs", "use crate::g::a::A;\n")], &[]);
    check(&[("x/src/g.rs", "use self::a::A;\n"), ("x/src/g/a.rs", "use super::G;\n")], &[]);
}

#[test]
fn the_list_of_open_circles_is_exact() {
    let sources = [
        Source::new("x/src/a.rs", "use crate::b::B;\n"),
        Source::new("x/src/b.rs", "use crate::a::A;\n"),
        Source::new("x/src/c.rs", "use crate::a::A;\n"),
    ];
    assert_eq!(violations(&sources, &[("x", &["a", "b"])]), Vec::<String>::new());
    assert_eq!(violations(&sources, &[]).len(), 1);
    let stale: &[(&str, &[&str])] = &[("x", &["a", "b"]), ("x", &["a", "c"])];
    assert_eq!(violations(&sources, stale).len(), 1);
}
