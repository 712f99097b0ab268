package answer

const machine = uint16(62)

// mov edi, 42; mov eax, SYS_exit; syscall
const code = "\xbf\x2a\x00\x00\x00\xb8\x3c\x00\x00\x00\x0f\x05"
