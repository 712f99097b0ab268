package answer

const machine = uint16(183)

// mov x0, #42; mov x8, #SYS_exit; svc 0
const code = "\x40\x05\x80\xd2\xa8\x0b\x80\xd2\x01\x00\x00\xd4"
