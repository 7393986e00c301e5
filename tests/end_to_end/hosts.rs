//! One file for several hosts: each takes its part.

use crate::lab;

const FILE: &str = r#"
[hosts.a]
id = 1
address = "192.0.2.1"

[hosts.b]
id = 2
address = "192.0.2.2"

[networks.front]
subnet = "10.20.0.0/24"

[containers.web]
host = "a"
networks = ["front"]
ports = ["8080:80"]

[containers.api]
host = "b"
networks = ["front"]
ports = ["8080:80"]

[containers.log]
networks = ["front"]
"#;

#[test]
fn each_host_takes_its_part_of_the_file() {
    lab::in_lab(|lab| {
        let file = lab.host.write("shop.toml", FILE);
        for (host, names) in [("a", ["log", "web"]), ("b", ["api", "log"])] {
            let applied = lab.host.netrec(&["-c", &file, "--host", host, "apply", "-y"]);
            assert_eq!(applied.status, 0, "{}", applied.stderr);
            assert_eq!(lab.host.netns_names(), names, "{host}");
            let again = lab.host.netrec(&["-c", &file, "--host", host, "plan"]);
            assert!(again.stdout.ends_with(&format!("No changes. {host} matches {file}.\n")), "{}", again.stdout);
        }
        let unknown = lab.host.netrec(&["-c", &file, "--host", "c", "plan"]);
        assert_eq!((unknown.status, unknown.stdout.as_str()), (1, ""));
        assert_eq!(
            unknown.stderr,
            "error: this host is called `c`, which is none of the file's: say with `--host` which one it is (`a`, `b`)\n"
        );
    });
}
