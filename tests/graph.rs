//! Pictures of files: every example's is legible and says what the example expects, and nothing in a name gets out of its text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netrec::config::{Config, Node, Source, Sources, Target, parse};
use netrec::graph::{Audience, Container, Picture};
use roxmltree::{Document, Node as Element};

fn config(name: &str, text: &str) -> Config {
    parse(Sources(vec![Source { name: name.into(), text: text.into() }])).unwrap_or_else(|e| panic!("{e}"))
}

fn picture(text: &str) -> Picture {
    Picture::of(&config("netrec.toml", text)).unwrap()
}

/// Every file that there is in the repository and that is valid: examples, and the golden ones.
fn files() -> Vec<(String, Config)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = |folder: &str| fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let examples = list("examples").filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let golden = list("tests/golden").map(|case| case.join("config.toml")).filter(|path| path.exists());
    let mut paths: Vec<PathBuf> = examples.chain(golden).collect();
    paths.sort();
    assert!(paths.len() > 40, "files are missing: {}", paths.len());
    paths
        .iter()
        .map(|path| (path.display().to_string(), config("netrec.toml", &fs::read_to_string(path).unwrap())))
        .collect()
}

/// A file of many containers: how many of each network, and how many networks.
fn many(networks: usize, each: usize) -> String {
    let mut text = String::new();
    for network in 0..networks {
        text += &format!("[networks.n{network}]\nsubnet = \"10.{}.{}.0/24\"\n", network / 250, network % 250);
        for container in 0..each {
            let port = 10_000 + network * each + container;
            text +=
                &format!("[containers.c{network}-{container}]\nnetworks = [\"n{network}\"]\nports = [\"{port}:80\"]\n");
        }
    }
    text
}

#[derive(Clone, Copy, Debug)]
struct Area {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn holds(&self, other: &Self) -> bool {
        self.left <= other.left && other.right <= self.right && self.top <= other.top && other.bottom <= self.bottom
    }
}

fn attribute(element: Element<'_, '_>, name: &str) -> f64 {
    element.attribute(name).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} of {element:?}"))
}

fn rectangle(element: Element<'_, '_>) -> Area {
    let [x, y] = ["x", "y"].map(|name| attribute(element, name));
    Area { left: x, top: y, right: x + attribute(element, "width"), bottom: y + attribute(element, "height") }
}

/// What a text says; all that was cut of it stands before that, as its title.
fn words<'a>(text: Element<'a, '_>) -> &'a str {
    text.children().filter(Element::is_text).find_map(|part| part.text()).unwrap_or_default()
}

/// What a text covers: letters rise above the base line by less than their size, and go below by less than a quarter.
fn covered(text: Element<'_, '_>) -> Area {
    let [x, y, size, length] = ["x", "y", "font-size", "textLength"].map(|name| attribute(text, name));
    // No letter of a font of one width is wider than this, so that the length is no lie.
    let letters = u32::try_from(words(text).chars().count()).unwrap();
    assert!(length + 0.1 >= f64::from(letters) * size * 0.6, "a text is pressed together: {text:?}");
    Area { left: x, top: y - 0.8 * size, right: x + length, bottom: y + 0.25 * size }
}

/// Points of a line of the image, close to each other.
fn points(path: &str) -> Vec<(f64, f64)> {
    let numbers = |text: &str| -> Vec<f64> { text.split_whitespace().map(|n| n.parse().unwrap()).collect() };
    let mut parts = path.trim_start_matches('M').split('C').map(numbers);
    let start = parts.next().unwrap();
    let mut points = vec![(start[0], start[1])];
    for part in parts {
        let [ax, ay, bx, by, x, y] = part[..] else { panic!("{path}") };
        let (x0, y0) = *points.last().unwrap();
        for step in 1..=32 {
            let t = f64::from(step) / 32.0;
            let u = 1.0 - t;
            let at = |p0: f64, p1: f64, p2: f64, p3: f64| {
                u * u * u * p0 + 3.0 * u * u * t * p1 + 3.0 * u * t * t * p2 + t * t * t * p3
            };
            points.push((at(x0, ax, bx, x), at(y0, ay, by, y)));
        }
    }
    points
}

/// Asserts that an image is one that can be read: well-formed, and nothing in another's way.
fn legible(name: &str, svg: &str) {
    let document = Document::parse(svg).unwrap_or_else(|e| panic!("{name}: {e}"));
    let root = document.root_element();
    let whole = Area { left: 0.0, top: 0.0, right: attribute(root, "width"), bottom: attribute(root, "height") };
    let all = |tag: &'static str| root.children().filter(move |element| element.has_tag_name(tag));
    let class = |element: Element<'_, '_>| element.attribute("class").unwrap_or_default().to_owned();
    let boxes: Vec<Area> =
        all("rect").filter(|e| !["ground", "host"].contains(&class(*e).as_str())).map(rectangle).collect();
    let hosts: Vec<Area> = all("rect").filter(|e| class(*e) == "host").map(rectangle).collect();
    let texts: Vec<(Area, &str)> = all("text").map(|e| (covered(e), words(e))).collect();
    assert!(!boxes.is_empty() && !texts.is_empty(), "{name}: nothing is drawn");
    for (place, (area, text)) in texts.iter().enumerate() {
        let own = boxes.iter().filter(|own| own.overlaps(area)).collect::<Vec<_>>();
        let inside = match own[..] {
            [own] => own.holds(area),
            [] => hosts.iter().any(|host| host.holds(area)),
            _ => false,
        };
        assert!(inside && whole.holds(area), "{name}: `{text}` is clipped");
        let other = texts[place + 1..].iter().find(|(other, _)| area.overlaps(other));
        assert!(other.is_none(), "{name}: `{text}` and `{}` overlap", other.unwrap().1);
    }
    for (place, area) in boxes.iter().enumerate() {
        assert!(whole.holds(area), "{name}: a box is cut off: {area:?}");
        assert!(boxes[place + 1..].iter().all(|other| !area.overlaps(other)), "{name}: two boxes overlap: {area:?}");
        assert!(
            hosts.iter().all(|host| host.holds(area) || !host.overlaps(area)),
            "{name}: a box is half in a host: {area:?}"
        );
    }
    for (place, area) in hosts.iter().enumerate() {
        assert!(whole.holds(area), "{name}: a host is cut off: {area:?}");
        assert!(hosts[place + 1..].iter().all(|other| !area.overlaps(other)), "{name}: two hosts overlap: {area:?}");
    }
    for line in all("path").map(|e| points(e.attribute("d").unwrap())) {
        for (x, y) in &line[1..line.len() - 1] {
            let behind = boxes.iter().find(|b| b.left + 1.0 < *x && *x < b.right - 1.0 && b.top < *y && *y < b.bottom);
            assert!(behind.is_none(), "{name}: a line is behind a box at {x} {y}: {behind:?}");
            let behind = texts.iter().find(|(t, _)| t.left < *x && *x < t.right && t.top < *y && *y < t.bottom);
            assert!(behind.is_none(), "{name}: a line is behind a text at {x} {y}: {behind:?}");
        }
    }
    contrast(name, &document);
}

/// The brightness of a colour `#rrggbb` (WCAG 2.2, relative luminance).
fn luminance(colour: &str) -> f64 {
    let part = |at: usize| {
        let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}

fn contrast_of(one: &str, other: &str) -> f64 {
    let (a, b) = (luminance(one), luminance(other));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// Asserts that texts are told from what they stand on (4.5 to 1), and borders and lines (3 to 1), on both grounds.
fn contrast(name: &str, document: &Document<'_>) {
    let root = document.root_element();
    let elements = || root.descendants().filter(|e| e.attribute("class").is_some());
    let style = root.children().find(|e| e.has_tag_name("style")).and_then(|e| e.text()).unwrap();
    let mut dark: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for rule in style.split('}').filter_map(|rule| rule.rsplit_once(" {").or_else(|| rule.rsplit_once('{'))) {
        let class = rule.0.rsplit('.').next().unwrap().trim();
        dark.extend(
            rule.1
                .split(';')
                .filter_map(|one| one.split_once(':'))
                .map(|(key, value)| ((class, key.trim()), value.trim())),
        );
    }
    let colour = |element: Element<'_, '_>, key: &'static str, is_dark: bool| -> Option<String> {
        let light = element.attribute(key)?;
        let class = element.attribute("class")?;
        Some(if is_dark {
            (*dark.get(&(class, key)).unwrap_or_else(|| panic!("{class} {key}"))).to_owned()
        } else {
            light.to_owned()
        })
    };
    for is_dark in [false, true] {
        let of = |class: &str, key: &'static str| {
            elements().find(|e| e.attribute("class") == Some(class)).and_then(|e| colour(e, key, is_dark))
        };
        let ground = of("ground", "fill").unwrap();
        for rect in elements().filter(|e| e.has_tag_name("rect")) {
            let fill = colour(rect, "fill", is_dark).unwrap();
            for text in ["text", "note"].into_iter().filter_map(|class| of(class, "fill")) {
                let enough = contrast_of(&fill, &text);
                assert!(enough >= 4.5, "{name}: text {text} on {fill} has a contrast of {enough:.1}");
            }
            if let Some(stroke) = colour(rect, "stroke", is_dark).filter(|_| rect.attribute("class") != Some("host")) {
                assert!(contrast_of(&stroke, &fill) >= 3.0, "{name}: {stroke} around {fill}");
            }
        }
        if let Some(line) = of("line", "stroke") {
            for under in [Some(ground.clone()), of("host", "fill")].into_iter().flatten() {
                assert!(contrast_of(&line, &under) >= 3.0, "{name}: a line {line} on {under}");
            }
        }
    }
}

#[test]
fn every_files_picture_is_legible() {
    for (name, config) in files() {
        let svg = Picture::of(&config).unwrap().to_svg();
        legible(&name, &svg);
        assert_eq!(svg, Picture::of(&config).unwrap().to_svg(), "{name}: another picture of the same file");
    }
}

/// What an example expects is tried with real packets, and its picture says the same.
#[test]
fn pictures_say_what_is_expected() {
    let mut agreed = 0;
    for (name, config) in files() {
        let picture = Picture::of(&config).unwrap();
        let of = |index: usize| -> &Container {
            let name = &config.containers[index].name;
            picture.containers.iter().find(|container| container.names == [name.clone()]).unwrap()
        };
        for line in &config.expect {
            let said = match (line.from, line.to, line.port) {
                (from @ (Node::World | Node::Host(_)), Target::Node(Node::Host(host)), Some((port, protocol))) => {
                    let (own, port) = (from == Node::Host(host), format!("{port}/{}", protocol.as_str()));
                    let doors = picture.containers.iter().filter(|c| c.host == host).flat_map(|c| &c.doors);
                    let doors = doors.filter(|door| match &door.audience {
                        Audience::World => true,
                        // The world of a rehearsal is on no list; the host itself is let through.
                        Audience::Listed(_) | Audience::Host => own,
                        Audience::Plugin(_) | Audience::Nobody => false,
                    });
                    let is = |written: &String| {
                        let (at, _) = written.split_once(" → ").unwrap_or((written, ""));
                        let number = at.rsplit_once(':').map_or(at, |(_, number)| number);
                        let (range, its) = number.split_once('/').unwrap();
                        let (wanted, of) = port.split_once('/').unwrap();
                        let (first, last) = range.split_once('-').unwrap_or((range, range));
                        let [first, last, wanted] = [first, last, wanted].map(|n| n.parse::<u16>().unwrap());
                        its == of && (first..=last).contains(&wanted) && !at.starts_with("[2") && !at.starts_with("[fd")
                    };
                    doors.flat_map(|door| &door.ports).any(is)
                }
                (Node::Container(from), Target::Node(Node::World), _) if !config.containers[from].shares_host() => {
                    of(from).leaves()
                }
                (Node::Container(from), Target::Node(Node::Container(to)), _) => {
                    let (from, to) = (of(from), of(to));
                    let meet = from.links.iter().any(|link| {
                        !picture.networks[link.network].apart
                            && to.links.iter().any(|other| other.network == link.network)
                    });
                    // By a third one, which routes for both, or by the world where the other is on its link.
                    if !meet && line.reach {
                        continue;
                    }
                    meet
                }
                _ => continue,
            };
            assert_eq!(said, line.reach, "{name}: {}\n{}", line.text, picture.to_text());
            agreed += 1;
        }
    }
    assert!(agreed > 80, "the pictures were asked {agreed} times only");
}

const HOSTILE: &str = r#"
[networks.a]
subnet = "10.0.0.0/24"
trusted = ["e\"<&>]"]

[networks.p]
driver = "remote"
plugin = "/run/\"]};<script>&#59;</plugin>`--> .sock"
subnet = "10.1.0.0/24"

[containers.c]
networks = ["a", "p"]
"#;

#[test]
fn nothing_gets_out_of_its_text() {
    let config = config("\u{202e}\u{1b}[31m\"<&>\\\n\u{ffff}.toml", HOSTILE);
    let picture = Picture::of(&config).unwrap();
    let svg = picture.to_svg();
    legible("hostile", &svg);
    let document = Document::parse(&svg).unwrap();
    let texts: Vec<&str> = document.descendants().filter(|e| e.has_tag_name("text")).filter_map(|e| e.text()).collect();
    assert!(texts.contains(&"in from e\"<&>]"), "{texts:?}");
    assert!(texts.contains(&"plugin /run/\"]};<script>&#59;</plugin>`--> .sock"), "{texts:?}");
    let tags = ["svg", "title", "desc", "style", "defs", "marker", "path", "rect", "text"];
    assert!(document.descendants().filter(Element::is_element).all(|e| tags.contains(&e.tag_name().name())));

    let mermaid = picture.to_mermaid();
    assert!(mermaid.contains("<i>in from e#34;#60;#38;#62;]</i>"), "{mermaid}");
    let plugin = "plugin /run/#34;]#125;#59;#60;script#62;#38;#35;59#59;#60;/plugin#62;#96;--#62; .sock";
    assert!(mermaid.contains(plugin), "{mermaid}");
    assert!(mermaid.lines().all(|line| line.matches('"').count() % 2 == 0), "{mermaid}");

    let dot = picture.to_dot();
    assert!(dot.contains(r#"\lin from e\"<&amp;>]\l"#), "{dot}");
    assert!(dot.contains(r#"\lplugin /run/\"]};<script>&amp;#59;</plugin>`--> .sock\l"#), "{dot}");
    assert!(dot.starts_with("digraph \"\\\\u{202e}\\\\u{1b}[31m\\\"<&amp;>\\\\\\\\n\u{ffff}.toml\" {\n"), "{dot}");

    let text = picture.to_text();
    assert!(text.starts_with("\\u{202e}\\u{1b}[31m\"<&>\\\\n\u{ffff}.toml\n"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text}");
}

/// What is too long for a line is cut, and all of it is told to who points at it.
#[test]
fn what_is_cut_can_be_read() {
    let (short, long) = ("a".repeat(42), "b".repeat(43));
    let text = format!(
        "[networks.a]\nsubnet = \"10.0.0.0/24\"\n[containers.c]\ndocker = \"{short}\"\nnetworks = [\"a\"]\n\
         [containers.d]\npodman = \"{long}\"\nnetworks = [\"a\"]\n"
    );
    let svg = picture(&text).to_svg();
    legible("long names", &svg);
    let document = Document::parse(&svg).unwrap();
    let of = |name: &str| {
        let is = |e: &Element<'_, '_>| e.has_tag_name("text") && words(*e).contains(name);
        let text = document.descendants().find(is).unwrap();
        let title = text.children().find(|e| e.has_tag_name("title")).and_then(|e| e.text());
        (words(text), title.map(str::to_owned))
    };
    assert_eq!(of("aa"), (format!("container `{short}` of Docker").as_str(), None));
    let whole = format!("container `{long}` of Podman");
    assert_eq!(of("bb"), (format!("container `{long}` of Podm…").as_str(), Some(whole)));
}

/// What of a host's name and addresses has no room above its boxes is told to who points at it; the name is whole.
#[test]
fn a_hosts_name_stays_clear_of_the_next_column() {
    let name = "storefront-production-frankfurt-rack-twelve-on-the-left";
    for (name, shown) in [
        ("b", "host b, 192.0.2.2, …".to_owned()),
        ("warehouse", "host warehouse, …".to_owned()),
        ("warehouse-basement", "host warehouse-basement".to_owned()),
        (name, format!("host {name}")),
    ] {
        let text = format!(
            "[hosts.a]\nid = 1\naddress = [\"192.0.2.1\", \"2001:db8::1\"]\n\
             [hosts.{name}]\nid = 2\naddress = [\"192.0.2.2\", \"2001:db8:1111:2222:3333:4444:5555:6666\"]\n\
             [networks.wide]\ndriver = \"overlay\"\ntopology = \"direct\"\nsubnet = [\"10.30.0.0/16\", \"fd30::/48\"]\n\
             [containers.web]\nhost = \"a\"\nnetworks = [\"wide\"]\nports = [\"80:80\"]\n\
             [containers.db]\nhost = \"{name}\"\nnetworks = [\"wide\"]\n"
        );
        let svg = picture(&text).to_svg();
        legible(name, &svg);
        let whole = format!("host {name}, 192.0.2.2, 2001:db8:1111:2222:3333:4444:5555:6666");
        assert!(svg.contains(&format!("<title>{whole}</title>{shown}</text>")), "{name}: {svg}");
    }
}

/// Many boxes that nothing is drawn from or to, on several hosts: their places are found all the same.
#[test]
fn containers_without_networks_have_their_places() {
    let mut text = String::new();
    for id in 1..6 {
        text += &format!("[hosts.h{}]\nid = {id}\naddress = \"192.0.2.{id}\"\n", id - 1);
    }
    text += "[networks.n0]\nsubnet = \"10.0.0.0/16\"\ninternal = true\n";
    for (name, host, networks) in [
        ("c2", 0, "\"n0\""),
        ("c3", 1, ""),
        ("c5", 1, "\"n0\""),
        ("c6", 1, ""),
        ("c7", 1, "\"n0\""),
        ("c8", 0, ""),
        ("c9", 3, "\"n0\""),
        ("c10", 3, ""),
    ] {
        text += &format!("[containers.{name}]\nhost = \"h{host}\"\nnetworks = [{networks}]\n");
    }
    legible("of containers without networks", &picture(&text).to_svg());
}

/// xorshift64*, so that a failure can be had again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % most
    }
}

/// A valid file: up to five hosts, networks between them and within each, containers with and without either and ports.
fn random(seed: u64) -> String {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let hosts = random.below(6);
    let mut text = String::new();
    for host in 0..hosts {
        let name = if random.below(8) == 0 { "-of-a-name-that-is-longer-than-its-boxes-are-wide" } else { "" };
        text += &format!("[hosts.h{host}{name}]\nid = {}\naddress = [\"192.0.2.{}\"", host + 1, host + 1);
        if random.below(2) == 0 {
            text += &format!(", \"2001:db8:1111:2222:3333:4444:5555:{host}\"");
        }
        text += "]\n";
    }
    let names: Vec<String> =
        text.lines().filter_map(|line| Some(line.strip_prefix("[hosts.")?.strip_suffix(']')?.to_owned())).collect();
    let networks = random.below(7);
    let mut open = Vec::new();
    for network in 0..networks {
        text += &format!("[networks.n{network}]\nsubnet = \"10.{network}.0.0/16\"\n");
        let sort = random.below(4);
        open.push(sort != 2);
        text += match sort {
            0 | 1 if hosts > 1 => "driver = \"overlay\"\ntopology = \"direct\"\n",
            2 => "internal = true\n",
            _ => "",
        };
    }
    for container in 0..random.below(22) {
        text += &format!("[containers.c{container}]\n");
        if !names.is_empty() {
            text += &format!("host = \"{}\"\n", names[usize::try_from(random.below(hosts)).unwrap()]);
        }
        let often = 2 + random.below(3);
        let on: Vec<u64> = (0..networks).filter(|_| random.below(often) == 0).collect();
        let quoted: Vec<String> = on.iter().map(|network| format!("\"n{network}\"")).collect();
        text += &format!("networks = [{}]\n", quoted.join(", "));
        // Ports lead to the first network.
        if on.first().is_some_and(|first| open[usize::try_from(*first).unwrap()]) && random.below(2) == 0 {
            let at =
                |port: u64, narrow| format!("\"{}{}:8{port}\"", if narrow { "127.0.0.1:" } else { "" }, 9000 + port);
            let ports: Vec<String> =
                (0..random.below(4)).map(|n| at(4 * container + n, random.below(3) == 0)).collect();
            text += &format!("ports = [{}]\n", ports.join(", "));
        }
    }
    text
}

#[test]
fn pictures_of_random_files_are_legible() {
    for seed in 0..600 {
        let text = random(seed);
        let svg = picture(&text).to_svg();
        legible(&format!("of seed {seed}"), &svg);
    }
}

#[test]
fn a_file_of_nothing_has_a_picture() {
    assert_eq!(picture("").to_text(), "netrec.toml\n└─ host\n");
    legible("nothing", &picture("").to_svg());
    let alone = picture("[networks.a]\nsubnet = \"10.0.0.0/24\"\nmode = \"isolated\"\n");
    legible("no containers", &alone.to_svg());
    let network = "network a: 10.0.0.0/24, bridge nr-a, no way in or out, not even the host";
    assert_eq!(alone.to_text(), format!("netrec.toml\n└─ host\n   └─ {network}\n"));
}

/// Of a cluster the file has one host and no addresses; what a plugin lets through is its own to say.
#[test]
fn what_the_file_cannot_know_is_not_made_up() {
    let picture = picture(
        r#"
[cluster]
etcd = "http://192.0.2.9:2379"
[networks.wide]
driver = "overlay"
topology = "routed"
subnet = "10.30.0.0/16"
vni = 1
[networks.other]
driver = "remote"
plugin = "weave"
subnet = "10.1.0.0/24"
[containers.web]
networks = ["wide"]
ports = ["8080:80"]
[containers.db]
networks = ["other"]
ports = ["9080:80"]
"#,
    );
    let tree = "\
netrec.toml
├─ network wide: 10.30.0.0/16, routed overlay, VXLAN 1, members from etcd, out as the host
└─ host
   ├─ network other: 10.1.0.0/24, plugin weave, what passes is not netrec's to say
   ├─ web
   │  ├─ on wide: eth0, its way out
   │  ├─ 8080/tcp → 80 from the world
   │  └─ reaches the world
   └─ db
      ├─ on other: eth0 10.1.0.109
      └─ 9080/tcp → 80 as plugin weave lets in
";
    assert_eq!(picture.to_text(), tree);
    legible("a cluster", &picture.to_svg());
}

/// In a picture of many those that are alike share a box; the tree has them all.
#[test]
fn many_share_boxes() {
    for (networks, each) in [(1, 250), (4, 250), (500, 2)] {
        let picture = picture(&many(networks, each));
        let svg = picture.to_svg();
        legible(&format!("{networks} networks of {each}"), &svg);
        let boxes = svg.matches("<rect class=").count();
        assert!(boxes <= 2 + 2 + 3 * networks.min(4), "{networks} networks of {each}: {boxes} boxes");
        let total = networks * each;
        let word = if networks > 24 { format!("{total} containers") } else { format!("{each} containers") };
        assert!(svg.contains(&format!(">{word}</text>")) && svg.contains(">and "), "{word}: {svg}");
        let text = picture.to_text();
        let containers = text.lines().filter(|line| line.contains("─ c")).count();
        assert_eq!(containers, total, "the tree has them all");
        // Mermaid refuses more than 500 lines and 50,000 characters.
        let mermaid = picture.to_mermaid();
        assert!(mermaid.len() < 10_000 && mermaid.matches("-->").count() < 100, "{mermaid}");
    }
}

/// Many that are not alike have a box each, and it is still legible.
#[test]
fn many_of_many_sorts_are_legible() {
    let mut text = String::new();
    for network in 0..30 {
        text += &format!("[networks.n{network}]\nsubnet = \"10.0.{network}.0/24\"\ninternal = {}\n", network % 4 == 0);
    }
    for container in 0..60 {
        let networks: Vec<String> = (0..5).map(|bit| format!("\"n{}\"", (container >> bit) % 2 + 2 * bit)).collect();
        text += &format!("[containers.c{container}]\nnetworks = [{}]\n", networks.join(", "));
        if container % 3 == 0 {
            text += &format!("ports = [\"{}:80\", \"127.0.0.1:{}:81\"]\n", 9000 + container, 8000 + container);
        }
    }
    legible("of many sorts", &picture(&text).to_svg());
}

#[test]
fn the_command_needs_neither_root_nor_the_kernel() {
    let folder = std::env::temp_dir().join(format!("netrec-graph-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (file, out) = (folder.join("netrec.toml"), folder.join("out"));
    fs::write(&file, "[networks.a]\nsubnet = \"10.0.0.0/24\"\n").unwrap();
    let netrec = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netrec"));
        let output = command.arg("-c").arg(&file).arg("graph").args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), said)
    };
    let (status, text, said) = netrec(&[]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    assert!(
        text.ends_with("netrec.toml\n└─ host\n   └─ network a: 10.0.0.0/24, bridge nr-a, out as the host\n"),
        "{text}"
    );
    for (format, begins) in [("mermaid", "flowchart LR\n"), ("dot", "digraph "), ("svg", "<svg ")] {
        let (status, text, said) = netrec(&["--format", format]);
        assert_eq!((status, said.as_str()), (Some(0), ""), "{format}");
        assert!(text.starts_with(begins), "{text}");
        assert_eq!(netrec(&["--format", format, "-o", out.to_str().unwrap()]), (Some(0), String::new(), String::new()));
        assert_eq!(fs::read_to_string(&out).unwrap(), text);
    }
    let (status, _, said) = netrec(&["-o", folder.join("none/out").to_str().unwrap()]);
    assert_eq!(status, Some(1));
    let why = "No such file or directory (os error 2)";
    assert_eq!(said, format!("error: cannot write {}: {why}\n", folder.join("none/out").display()));
    fs::write(&file, "[networks.a]\n").unwrap();
    assert_eq!(netrec(&[]).0, Some(3), "the file is not valid");
    fs::remove_dir_all(&folder).unwrap();
}
