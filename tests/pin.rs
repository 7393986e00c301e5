//! `netrec pin`: chosen addresses are written where they belong, and nothing else of a file changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netrec::config::{Addresses, Source, Sources, parse, with_addresses};
use netrec::desired::filled_in;
use netrec::state::Facts;

/// A folder that goes when the test does.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netrec-pin-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exit status, standard output, standard error.
fn pin(path: &Path, stdin: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netrec"));
    command.arg("-c").arg(path).arg("pin").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What a text wants, with all filled in; without the text of comments.
fn wants(text: &str) -> serde_json::Value {
    let config = parse(Sources(vec![Source { name: "netrec.toml".into(), text: text.into() }]))
        .unwrap_or_else(|e| panic!("{e}"));
    let host = config.hosts.first().map(|host| host.name.to_string());
    filled_in(&config, &Facts::default(), host.as_deref()).unwrap()
}

const NETWORKS: &str = "
[networks.front]
subnet = [\"10.20.0.0/24\", \"fd20::/64\"]
[networks.back]
subnet = \"10.21.0.0/24\"
";

/// Texts of a container as they are written, and as they become: `F` is the addresses on `front`, `B` that on `back`.
const SPELLINGS: [(&str, &str); 29] = [
    ("[containers.web]\nnetworks = [\"front\"]\n", "[containers.web]\nnetworks.front = { address = F }\n"),
    (
        "[containers.web] # w\n# of two\nnetworks = [\"front\", \"back\"] # end\nports    = [\"80:80\"]\n# foot\n",
        "[containers.web] # w\n# of two\nnetworks.front = { address = F }\nnetworks.back = { address = B } # end\n\
         ports    = [\"80:80\"]\n# foot\n",
    ),
    (
        "[containers.web]\nnetworks = [\n  \"front\", # outer\n  # the inner one\n  \"back\", # inner\n  # all\n]\n",
        "[containers.web]\nnetworks.front = { address = F } # outer\n  # the inner one\nnetworks.back = { address = B } # inner\n  # all\n",
    ),
    (
        "[containers]\nweb = { networks = [\"front\"] }\n",
        "[containers]\nweb = { networks = { front = { address = F } } }\n",
    ),
    ("[containers]\nweb.networks = [\"back\"] # b\n", "[containers]\nweb.networks.back = { address = B } # b\n"),
    ("containers.web.networks = [\"back\"]\n", "containers.web.networks.back = { address = B }\n"),
    ("[containers.web]\nnetworks.front = {}\n", "[containers.web]\nnetworks.front = { address = F }\n"),
    (
        "[containers.web]\nnetworks.back = { priority = 3 } # c\n",
        "[containers.web]\nnetworks.back = { priority = 3, address = B } # c\n",
    ),
    (
        "[containers.web]\nnetworks = { back = { priority = 3 }, front = { } }\n",
        "[containers.web]\nnetworks = { back = { priority = 3, address = B }, front = { address = F } }\n",
    ),
    (
        "[containers.web.networks.back]\n# only this\npriority = 3 # so\n\n[containers.web.networks.front]\n# foot\n",
        "[containers.web.networks.back]\n# only this\npriority = 3 # so\naddress = B\n\n[containers.web.networks.front]\naddress = F\n# foot\n",
    ),
    (
        "[containers.web]\nnetworks.back.priority = 3\nports = []\n",
        "[containers.web]\nnetworks.back.priority = 3\nnetworks.back.address = B\nports = []\n",
    ),
    (
        "[containers.web]\nnetworks.front = { address = \"10.20.0.9\" } # four\n",
        "[containers.web]\nnetworks.front = { address = [\"10.20.0.9\", S] } # four\n",
    ),
    (
        "[containers.web.networks.front]\naddress = [\n  \"10.20.0.9\", # four\n]\n",
        "[containers.web.networks.front]\naddress = [\n  \"10.20.0.9\", # four\n  S,\n]\n",
    ),
    (
        "[\"containers\".'web']\n\"networks\".\"front\" = { address = ['10.20.0.9', ] }\n",
        "[\"containers\".'web']\n\"networks\".\"front\" = { address = ['10.20.0.9', S, ] }\n",
    ),
    // Comments and indentation at every place that has one.
    (
        "[containers.web]   # the shop\n    # above\n    networks = [  # at once\n        # one\n        \"front\",  # after\n\
         \n            # far in\n        \"back\"   # last\n        # end\n    ] # tail\n    # below\n    ports = [\"80:80\"]\n",
        "[containers.web]   # the shop\n    # above\n    # at once\n        # one\n    networks.front = { address = F }  # after\n\
         \u{20}           # far in\n    networks.back = { address = B }   # last\n        # end\n    # tail\n    # below\n\
         \u{20}   ports = [\"80:80\"]\n",
    ),
    (
        "[containers.web]\nnetworks = [ \"front\" # a\n , # b\n \"back\" ] # c\n",
        "[containers.web]\nnetworks.front = { address = F } # a\n  # b\nnetworks.back = { address = B } # c\n",
    ),
    (
        "[containers.web]\n\tnetworks=[\"front\",\"back\"]# c\n",
        "[containers.web]\n\tnetworks.front = { address = F }\n\tnetworks.back = { address = B }# c\n",
    ),
    (
        "[containers]\n  web.networks = [\n    \"back\",\n    # end\n  ]\n  web.ports = []\n",
        "[containers]\n  web.networks.back = { address = B }\n    # end\n  web.ports = []\n",
    ),
    (
        "[containers]\nweb = { networks = { back.priority = 3 } } # c\n",
        "[containers]\nweb = { networks = { back.priority = 3, back.address = B } } # c\n",
    ),
    (
        "containers = { web = { networks = [ 'back' ] , ports = [] } } # c\n",
        "containers = { web = { networks = { back = { address = B } } , ports = [] } } # c\n",
    ),
    // Within braces, too.
    (
        "[containers]\nweb = { networks = [ # a comment\n \"front\" ] }\n",
        "[containers]\nweb = { networks = { # a comment\n front = { address = F } } }\n",
    ),
    (
        "[containers]\nweb = { # w\n    networks = [\n        # one\n        \"front\", # f\n        'back' # b\n\
         \u{20}       , # two\n    ], # n\n    ports = [\"80:80\"] # p\n} # e\n",
        "[containers]\nweb = { # w\n    networks = {\n        # one\n        front = { address = F }, # f\n        \
         back = { address = B } # b\n        , # two\n    }, # n\n    ports = [\"80:80\"] # p\n} # e\n",
    ),
    (
        "containers.web = { ports = [], networks = [\"back\" # b\n] }\n",
        "containers.web = { ports = [], networks = {back = { address = B } # b\n} }\n",
    ),
    (
        "[containers.web.networks]\n  back = { # open\n    priority = 3 # c\n  }\n",
        "[containers.web.networks]\n  back = { # open\n    priority = 3, address = B # c\n  }\n",
    ),
    (
        "[containers.web.networks]\n  back = { # empty\n  }\n",
        "[containers.web.networks]\n  back = { address = B # empty\n  }\n",
    ),
    (
        "  [containers.web.networks.back.sysctl] # s\n  \"net.ipv4.conf.IFNAME.rp_filter\" = 2\n",
        "  [containers.web.networks.back]\n  address = B\n\n  [containers.web.networks.back.sysctl] # s\n  \
         \"net.ipv4.conf.IFNAME.rp_filter\" = 2\n",
    ),
    (
        "[containers.web.networks.back]\n  priority = 3\n  # foot\n[containers.web.networks.back.sysctl]\n",
        "[containers.web.networks.back]\n  priority = 3\n  address = B\n  # foot\n[containers.web.networks.back.sysctl]\n",
    ),
    (
        "[containers.web]\nnetworks.back.sysctl.\"net.ipv4.conf.IFNAME.rp_filter\" = 2 # r\nnetworks.back.priority = 3 # p\n",
        "[containers.web]\nnetworks.back.sysctl.\"net.ipv4.conf.IFNAME.rp_filter\" = 2 # r\nnetworks.back.priority = 3 # p\n\
         networks.back.address = B\n",
    ),
    (
        "[containers.web.networks.front]\naddress = [\n  \"10.20.0.9\" # four\n  # end\n]\n",
        "[containers.web.networks.front]\naddress = [\n  \"10.20.0.9\", # four\n  S,\n  # end\n]\n",
    ),
];

#[test]
fn all_else_stays_as_it_is() {
    let folder = Folder::new("spellings");
    let (four, six, back) = ("\"10.20.0.222\"", "\"fd20::ed3a:5e9:a764:c522\"", "\"10.21.0.46\"");
    for (text, becomes) in SPELLINGS {
        let becomes = becomes.replace(" F", &format!(" [{four}, {six}]")).replace(" B", &format!(" {back}"));
        let becomes = becomes.replace(" S", &format!(" {six}"));
        // What is at the top of a file stands before its first table.
        let at_top = text.starts_with("containers");
        let whole = |part: &str| if at_top { format!("{part}{NETWORKS}") } else { format!("{NETWORKS}{part}") };
        let path = folder.write("netrec.toml", &whole(text));
        let (status, out, said) = pin(&path, "");
        assert_eq!((status, out.as_str()), (Some(0), ""), "{text}{said}");
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(written, whole(&becomes), "{said}");
        assert_eq!(wants(&written), wants(&whole(text)));
        let again = pin(&path, "");
        assert_eq!(
            again,
            (Some(0), String::new(), format!("No changes. {} leaves no address open.\n", path.display()))
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), written, "a second time changes nothing");
    }
    assert_eq!(folder.names(), ["netrec.toml"], "nothing is left beside it");
}

/// Only what is written anew has line ends of netrec's, and those are its neighbours'.
#[test]
fn line_ends_stay_as_they_are() {
    let one = |text: &str| {
        let addresses = Addresses { container: "web", network: "back", add: vec!["10.21.0.46".parse().unwrap()] };
        with_addresses(text, &[addresses]).unwrap()
    };
    let given = "networks.back = { address = \"10.21.0.46\" }";
    for (before, after) in [
        (
            "# a\r\n\n[containers.web]\r\nnetworks = ['front', 'back'] # b\nports = []\r\n",
            format!("# a\r\n\n[containers.web]\r\nnetworks.front = {{}}\n{given} # b\nports = []\r\n"),
        ),
        (
            "[containers.web]\nnetworks = [\r\n  'front', # f\r\n\t# g\n  'back', # b\n  # c\r\n] # d\r\n# e\n",
            format!("[containers.web]\nnetworks.front = {{}} # f\r\n\t# g\n{given} # b\r\n  # c\r\n# d\r\n# e\n"),
        ),
        (
            "[containers.web.networks.back] # h\r\npriority = 1\n\n",
            "[containers.web.networks.back] # h\r\npriority = 1\naddress = \"10.21.0.46\"\n\n".to_owned(),
        ),
        (
            "[containers.web.networks.back]\r\naddress = [\n  'fd21::9', # i\r\n  ]\n",
            "[containers.web.networks.back]\r\naddress = [\n  'fd21::9', # i\r\n  \"10.21.0.46\",\r\n  ]\n".to_owned(),
        ),
    ] {
        assert_eq!(one(before), after);
    }
}

/// Line ends, the mark at the beginning and the missing newline at the end are the file's.
#[test]
fn what_a_text_is_made_of_is_kept() {
    let one = |text: &str| {
        let addresses = Addresses { container: "web", network: "back", add: vec!["10.21.0.46".parse().unwrap()] };
        with_addresses(text, &[addresses]).unwrap()
    };
    assert_eq!(
        one("[containers.web]\r\nnetworks = [ # a\r\n \"back\", # b\r\n]\r\n# c\r\n"),
        "[containers.web]\r\nnetworks.back = { address = \"10.21.0.46\" } # b\r\n# c\r\n"
            .replace("[containers.web]\r\n", "[containers.web]\r\n# a\r\n")
    );
    assert_eq!(
        one("\u{feff}[containers.web]\nnetworks = ['back']"),
        "\u{feff}[containers.web]\nnetworks.back = { address = \"10.21.0.46\" }"
    );
    let elsewhere = Addresses { container: "db", network: "back", add: vec!["10.21.0.46".parse().unwrap()] };
    assert_eq!(with_addresses("[containers.web]\nnetworks = ['back']", &[elsewhere]), None);
}

/// The files of the repository, valid and full of comments: each wants the same afterwards, and no comment is lost.
#[test]
fn every_file_can_be_pinned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = |folder: &str| fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let examples = list("examples").filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let golden = list("tests/golden").map(|case| case.join("config.toml")).filter(|path| path.exists());
    for path in examples.chain(golden) {
        let text = fs::read_to_string(&path).unwrap();
        let (status, written, said) = pin(Path::new("-"), &text);
        assert_eq!(status, Some(0), "{}: {said}", path.display());
        assert_eq!(wants(&written), wants(&text), "{}", path.display());
        for comment in text.lines().filter_map(|line| line.split_once('#')).map(|(_, comment)| comment) {
            assert!(written.contains(comment), "{}: `{comment}` is lost:\n{written}", path.display());
        }
        // They stay in their order, and lines of comments alone to the byte.
        let lines = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.trim_start().starts_with('#')).map(str::to_owned).collect()
        };
        assert_eq!(lines(&written), lines(&text), "{}", path.display());
        let (status, again, said) = pin(Path::new("-"), &written);
        assert_eq!((status, said.as_str()), (Some(0), "No changes. <stdin> leaves no address open.\n"));
        assert_eq!(again, written, "{}: a second time changes nothing", path.display());
    }
}

#[test]
fn each_file_of_a_folder_gets_its_own() {
    let folder = Folder::new("folder");
    let networks = folder.write("10-networks.toml", NETWORKS);
    let web = folder.write("20-web.toml", "[containers.web]\nnetworks = [\"back\"]\n");
    let db = folder.write("30-db.toml", "[containers.db.networks.back]\naddress = \"10.21.0.10\"\n");
    let inodes = || [&networks, &web, &db].map(|path| fs::metadata(path).unwrap().ino());
    fs::set_permissions(&web, fs::Permissions::from_mode(0o640)).unwrap();
    let root = nix::unistd::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&web, Some(1234), Some(4321)).unwrap();
    }
    let before = inodes();
    let owner = |path: &Path| fs::metadata(path).map(|m| (m.uid(), m.gid(), m.mode() & 0o7777)).unwrap();
    let had = owner(&web);
    let (status, out, said) = pin(&folder.0, "");
    assert_eq!((status, out.as_str()), (Some(0), ""), "{said}");
    let first = networks.display();
    assert_eq!(
        said,
        format!(
            "{}:2: containers.web.networks.back has 10.21.0.46\n1 address written into {first} and 2 more.\n",
            web.display()
        )
    );
    assert_eq!(fs::read_to_string(&web).unwrap(), "[containers.web]\nnetworks.back = { address = \"10.21.0.46\" }\n");
    assert_eq!(owner(&web), had, "owner and mode are kept");
    assert_eq!(had.2, 0o640);
    assert!(!root || (had.0, had.1) == (1234, 4321));
    let after = inodes();
    assert_eq!([before[0], before[2]], [after[0], after[2]], "the others are not written");
    assert_ne!(before[1], after[1], "it is replaced as a whole");
    assert_eq!(folder.names(), ["10-networks.toml", "20-web.toml", "30-db.toml"]);
}

#[test]
fn what_a_link_leads_to_is_replaced() {
    let folder = Folder::new("link");
    let text = format!("{NETWORKS}[containers.web]\nnetworks = [\"back\"]\n");
    let real = folder.write("real.toml", &text);
    let link = folder.0.join("netrec.toml");
    symlink("real.toml", &link).unwrap();
    let (status, _, said) = pin(&link, "");
    assert_eq!(status, Some(0), "{said}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&real).unwrap().contains("networks.back = { address = \"10.21.0.46\" }"));
}

#[test]
fn what_cannot_be_replaced_is_told() {
    let folder = Folder::new("errors");
    let text = format!("{NETWORKS}[containers.web]\nnetworks = [\"back\"]\n");
    // A pipe: it can be read, and has no place to put another in.
    let (status, out, said) = pin(Path::new("/dev/fd/0"), &text);
    assert_eq!((status, out.as_str()), (Some(1), ""));
    let way = "`-c -` reads standard input and prints the new text";
    assert_eq!(
        said,
        format!("error: cannot write /dev/fd/0: it is no regular file: {way}; nothing has been written\n")
    );
    // Of two files the second has a name to which nothing can be added, as that of a file beside it must be.
    let two = Folder::new("two");
    let first = two.write("netrec.toml", &text);
    let long = format!("{}.toml", "z".repeat(250));
    let second = two.write(&long, "[containers.db]\nnetworks = [\"back\"]\n");
    let (status, _, said) = pin(&two.0, "");
    let why = "File name too long (os error 36); nothing has been written";
    assert_eq!((status, said), (Some(1), format!("error: cannot write {}: {why}\n", second.display())));
    assert_eq!(fs::read_to_string(&first).unwrap(), text);
    assert_eq!(two.names(), ["netrec.toml", &long]);
    let wrong = folder.write("wrong.toml", "[containers.web]\nnetworks = [\"back\"]\n");
    let (status, _, said) = pin(&wrong, "");
    assert_eq!(status, Some(3), "{said}");
    let none = folder.0.join("none.toml");
    let (status, _, said) = pin(&none, "");
    let why = "No such file or directory (os error 2)";
    assert_eq!((status, said), (Some(3), format!("error: cannot read {}: {why}\n", none.display())));
    assert_eq!(folder.names(), ["wrong.toml"]);
}

/// Which address it is depends on the piece that the host leases: it stays open, and the others are written.
#[test]
fn addresses_of_a_cluster_stay_open() {
    let folder = Folder::new("cluster");
    let cluster = "[cluster]\netcd = \"http://192.0.2.90:2379\"\n[networks.wide]\ndriver = \"overlay\"\ntopology = \"routed\"\nvni = 1\nsubnet = \"10.5.0.0/16\"\n";
    let text = format!("{cluster}[containers.web]\nnetworks = [\"wide\"]\n");
    let path = folder.write("netrec.toml", &text);
    let (status, _, said) = pin(&path, "");
    let words =
        "leaves no address open but those of this host's piece of a cluster's network, which go with the piece.\n";
    assert_eq!((status, said), (Some(0), format!("No changes. {} {words}", path.display())));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    let more = "[networks.front]\nsubnet = \"10.20.0.0/24\"\n[containers.db]\nnetworks = [\"front\"]\n";
    let path = folder.write("netrec.toml", &format!("{text}{more}"));
    let (status, _, said) = pin(&path, "");
    assert_eq!(
        (status, said.ends_with(&format!("1 address written into {}.\n", path.display()))),
        (Some(0), true),
        "{said}"
    );
    assert!(fs::read_to_string(&path).unwrap().starts_with(&text));
}
