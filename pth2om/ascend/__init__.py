"""What is known of the chips and of CANN: SoCs, operators that have a parser or a kernel, options of atc."""
