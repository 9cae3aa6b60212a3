//! The binary: hands the arguments to [`cloud_mirror::cli`] and ends with its exit code.

fn main() -> std::process::ExitCode {
    cloud_mirror::cli::main()
}
