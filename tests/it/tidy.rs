//! The invariants and the rules of STYLE.md as programs: each check reads the sources and names what
//! breaks it, and each is shown a broken source here to prove that it can fail.
//!
//! Laws that need running code are checked elsewhere; ARCHITECTURE.md names the place for each.

mod circles;

use std::path::Path;
use std::process::Command;

/// A source file: path from the root, and text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("tests.rs")
            || self.path.contains("/testing")
    }

    /// The code before the file's test module.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that git tracks or would track, as text.
fn sources() -> Vec<Source> {
    let listed =
        Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output().expect("git");
    let names = String::from_utf8(listed.stdout).expect("utf-8 names");
    let files: Vec<Source> = names
        .lines()
        .filter_map(|name| Some(Source::new(name, &std::fs::read_to_string(root().join(name)).ok()?)))
        .collect();
    assert!(files.len() > 50, "git ls-files found only {} files", files.len());
    files
}

/// A rule: its name, its check, and a source that breaks it.
struct Rule {
    name: &'static str,
    check: fn(&Source) -> Vec<String>,
    broken: (&'static str, &'static str),
}

fn naming(file: &Source, words: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    if !file.is_rust() || allowed(&file.path) {
        return Vec::new();
    }
    let lines = file.code().lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|(number, line)| {
            words.iter().filter(|w| line.contains(**w)).map(move |w| format!("line {}: {w}", number + 1))
        })
        .collect()
}

fn is_pure(path: &str) -> bool {
    (path.starts_with("schemas/src/") || path.starts_with("processors/src/")) && !path.contains("testing")
}

const RULES: &[Rule] = &[
    Rule {
        name: "I1: schemas and processors hold no async, no I/O, no clock, no randomness",
        check: |f| {
            let words = [
                "async fn",
                ".await",
                "std::fs",
                "std::net::Tcp",
                "std::net::Udp",
                "std::env::",
                "Instant::now",
                "SystemTime",
                "std::thread",
                "HashMap::new()",
                "RandomState",
            ];
            naming(f, &words, |path| !is_pure(path) || f.is_test())
        },
        broken: ("processors/src/x.rs", "//! x\nfn f() { std::fs::read(\"a\"); }\n"),
    },
    Rule {
        name: "I2: siblings never import each other",
        check: |f| {
            let sibling = ["ingest", "processors", "sinks"].into_iter().find(|c| f.path == format!("{c}/Cargo.toml"));
            let Some(own) = sibling else { return Vec::new() };
            let others = ["ingest", "processors", "sinks"].into_iter().filter(|c| *c != own);
            others
                .filter(|c| f.text.lines().any(|l| l.starts_with(&format!("{c}.")) || l.starts_with(&format!("{c} ="))))
                .map(str::to_owned)
                .collect()
        },
        broken: ("sinks/Cargo.toml", "[dependencies]\ningest.workspace = true\n"),
    },
    Rule {
        name: "I3: rdkafka is named in one file",
        check: |f| {
            naming(f, &["rdkafka::"], |path| {
                path.starts_with("ingest/src/log/kafka")
                    || path.starts_with("tests/live/")
                    || path == "tests/it/tidy.rs"
            })
        },
        broken: ("src/x.rs", "//! x\nuse rdkafka::ClientConfig;\n"),
    },
    Rule {
        name: "I3: the ClickHouse client is named in one file",
        check: |f| {
            naming(f, &["use clickhouse::", " clickhouse::Client", " clickhouse::Row", "(clickhouse::"], |path| {
                path == "sinks/src/clickhouse/client.rs" || path.starts_with("tests/")
            })
        },
        broken: ("src/x.rs", "//! x\nuse clickhouse::Client;\n"),
    },
    Rule {
        name: "I3: the clock is read in one file",
        check: |f| {
            // An application that uses the client library brings its own clock.
            naming(f, &["SystemTime::now"], |path| {
                path == "src/clock.rs" || path == "tests/it/tidy.rs" || path.starts_with("ingest/examples/")
            })
        },
        broken: ("src/x.rs", "//! x\nlet t = SystemTime::now();\n"),
    },
    Rule {
        name: "I4: a processor cannot fail",
        check: |f| {
            let signature = "fn process(&self, state: &mut Self::State, batch: &[Sourced<Self::Input>]) -> Output;";
            let broken = f.path == "processors/src/stage.rs" && !f.text.contains(signature);
            broken.then(|| format!("expected `{signature}`")).into_iter().collect()
        },
        broken: ("processors/src/stage.rs", "//! x\nfn process(&self) -> Result<Output, Error>;\n"),
    },
    Rule {
        name: "I5: outputs, state and position travel in one value",
        check: |f| {
            let fields = [
                "pub source: PartitionId",
                "pub consumed: Range<u64>",
                "pub outputs: Vec<OutRecord>",
                "pub changes: Vec<StateChange>",
            ];
            let missing =
                fields.into_iter().filter(|field| f.path == "ingest/src/log/mod.rs" && !f.text.contains(field));
            missing.map(str::to_owned).collect()
        },
        broken: ("ingest/src/log/mod.rs", "//! x\npub struct Txn { pub outputs: Vec<OutRecord> }\n"),
    },
    Rule {
        name: "I7: published objects are never overwritten, renamed or deleted",
        check: |f| {
            let words = ["PutMode::Overwrite", "PutMode::Update", ".copy(", ".rename(", ".delete(", ".put("];
            let found = naming(f, &words, |path| !path.starts_with("sinks/src/") || f.is_test());
            // The start-up self-test takes its own probe away again, and nothing else.
            let probe = f.text.matches("let _removed = self.objects.delete(").count();
            found.into_iter().skip(if f.path == "sinks/src/parquet/store.rs" { probe.min(1) } else { 0 }).collect()
        },
        broken: ("sinks/src/x.rs", "//! x\nstore.put(&path, bytes).await?;\n"),
    },
    Rule {
        name: "I9: only the pii stage makes clean text, and sinks know no raw text",
        check: |f| {
            let mut found = naming(f, &["CleanText::redacted("], |path| {
                path.starts_with("processors/src/pii/") || path == "schemas/src/text/kind.rs" || f.is_test()
            });
            found.extend(naming(f, &["RawText", "RawEvent"], |path| !path.starts_with("sinks/src/") || f.is_test()));
            found
        },
        broken: ("sinks/src/x.rs", "//! x\nuse schemas::event::RawEvent;\n"),
    },
    Rule {
        name: "I10: no error class means \"ignore\"",
        check: |f| {
            let Some(body) = f.text.split("pub enum ErrorClass {").nth(1) else { return Vec::new() };
            let body = body.split("\n}").next().unwrap_or_default();
            ["Ignore", "Skip", "Drop"]
                .into_iter()
                .filter(|v| body.lines().any(|l| l.trim_start().starts_with(v)))
                .map(str::to_owned)
                .collect()
        },
        broken: ("ingest/src/log/mod.rs", "//! x\npub enum ErrorClass {\n    Ignore,\n}\n"),
    },
    Rule {
        name: "I11: completeness never counts offsets of transactional topics",
        check: |f| {
            naming(f, &["at.offset -", "at.offset +", "- record.at.offset", "- b.at.offset"], |path| {
                !path.starts_with("processors/src/completeness/") || f.is_test()
            })
        },
        broken: ("processors/src/completeness/x.rs", "//! x\nlet gap = b.at.offset - a.at.offset;\n"),
    },
    Rule {
        name: "style: every Rust file says what it is",
        check: |f| {
            (f.is_rust() && !f.text.starts_with("//! ")).then(|| "no `//!` at the top".to_owned()).into_iter().collect()
        },
        broken: ("src/x.rs", "fn f() {}\n"),
    },
    Rule {
        name: "style: files stay under 500 lines without tests",
        check: |f| {
            let lines = f.code().lines().count();
            let counted = f.is_rust()
                && !f.is_test()
                && f.path != "schemas/src/event/generated.rs"
                && !f.path.starts_with("benches/");
            (counted && lines > 500).then(|| format!("{lines} lines")).into_iter().collect()
        },
        broken: ("src/x.rs", include_str!("tidy_long_file.txt")),
    },
    Rule {
        name: "style: nothing unfinished or switched off",
        check: |f| {
            let words =
                [concat!("TO", "DO"), concat!("FIX", "ME"), "todo!(", "unimplemented!(", concat!("#[ig", "nore")];
            naming(f, &words, |path| path == "tests/it/tidy.rs")
        },
        broken: ("src/x.rs", "//! x\nfn f() { todo!() }\n"),
    },
    Rule {
        name: "style: tests do not sleep",
        check: |f| naming(f, &["thread::sleep", "time::sleep"], |path| path == "tests/it/tidy.rs" || !f.is_test()),
        broken: ("tests/it/x.rs", "//! x\nstd::thread::sleep(d);\n"),
    },
    Rule {
        name: "style: tests wait by schemas::testing, which alone says how long",
        check: |f| {
            // What waits for nothing may give way.
            let allowed = ["tests/it/tidy.rs", "schemas/src/testing/wait.rs", "src/services/tests.rs"];
            naming(f, &["yield_now", "const PATIENCE"], |path| allowed.contains(&path) || !f.is_test())
        },
        broken: ("tests/it/x.rs", "//! x\nwhile !x { std::thread::yield_now(); }\n"),
    },
    Rule {
        name: "portable: no path of one machine and no registry host",
        check: |f| {
            let words = [
                concat!("/wo", "rk/"),
                concat!("/ro", "ot/"),
                concat!("crates", ".io"),
                concat!("pypi", ".org"),
                concat!("npmjs", ".org"),
                concat!("repo.maven", ".apache.org"),
            ];
            let licence = f.path == "LICENSE" || f.path == "Cargo.lock";
            words.into_iter().filter(|w| !licence && f.text.contains(w)).map(str::to_owned).collect()
        },
        broken: ("README.md", concat!("see /wo", "rk/x")),
    },
];

#[test]
fn every_rule_holds() {
    let files = sources();
    let mut broken = Vec::new();
    for rule in RULES {
        for file in &files {
            broken.extend((rule.check)(file).into_iter().map(|what| format!("{}: {}: {what}", rule.name, file.path)));
        }
    }
    assert!(broken.is_empty(), "{} violations:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn every_rule_can_fail() {
    for rule in RULES {
        let (path, text) = rule.broken;
        assert!(!(rule.check)(&Source::new(path, text)).is_empty(), "{} does not see a broken {path}", rule.name);
    }
}

#[test]
fn i1_pure_crates_depend_on_nothing_that_waits_or_draws() {
    for package in ["schemas", "processors"] {
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package])
            .current_dir(root())
            .output()
            .expect("cargo tree");
        let tree = String::from_utf8(tree.stdout).expect("utf-8");
        assert!(tree.starts_with(package), "cargo tree printed nothing for {package}");
        for banned in ["tokio ", "rdkafka ", "reqwest ", "hyper ", "fjall ", "object_store "] {
            assert!(!tree.lines().any(|l| l.starts_with(banned)), "{package} depends on {banned}");
        }
    }
}
