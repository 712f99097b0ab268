#include "textflag.h"

// Two words side by side become eight pairs of bytes, the lowest bytes first.
DATA pairs<>+0x00(SB)/8, $0x0B030A0209010800
DATA pairs<>+0x08(SB)/8, $0x0F070E060D050C04
DATA pairs<>+0x10(SB)/8, $0x0B030A0209010800
DATA pairs<>+0x18(SB)/8, $0x0F070E060D050C04
GLOBL pairs<>(SB), RODATA|NOPTR, $32

// Words 2m, 2m+1 and 2m+16, 2m+17 of 32, as pairs of bytes, in the two lanes of Ym.
#define LOAD(m, X, Y) \
	VMOVDQU 16*m(SI), X; \
	VINSERTI128 $1, 128+16*m(SI), Y, Y; \
	VPSHUFB Y15, Y, Y

// The top bits of 32 bytes are half a plane; the next plane follows.
#define PLANE(Y) \
	VPMOVMSKB Y, AX; \
	MOVL AX, (R8); \
	VPADDB Y, Y, Y; \
	SUBQ R9, R8

// Eight planes of one byte position, from the highest down. DX is where the highest goes.
#define BYTE(Y) \
	MOVQ DX, R8; \
	PLANE(Y); PLANE(Y); PLANE(Y); PLANE(Y); PLANE(Y); PLANE(Y); PLANE(Y); PLANE(Y); \
	LEAQ (DX)(R9*8), DX

// Half a group: 32 words at SI to 4 bytes of every plane, the lowest plane at DI. The pairs of bytes in eight registers
// are transposed in each lane as an 8×8 matrix of 16-bit elements, in three rounds of interleaving; byte position k of all
// 32 words is then in one register, in the order of the words.
#define HALF \
	VMOVDQU pairs<>(SB), Y15; \
	LOAD(0, X0, Y0); LOAD(1, X1, Y1); LOAD(2, X2, Y2); LOAD(3, X3, Y3); \
	LOAD(4, X4, Y4); LOAD(5, X5, Y5); LOAD(6, X6, Y6); LOAD(7, X7, Y7); \
	VPUNPCKLWD Y1, Y0, Y8; \
	VPUNPCKHWD Y1, Y0, Y9; \
	VPUNPCKLWD Y3, Y2, Y10; \
	VPUNPCKHWD Y3, Y2, Y11; \
	VPUNPCKLWD Y5, Y4, Y12; \
	VPUNPCKHWD Y5, Y4, Y13; \
	VPUNPCKLWD Y7, Y6, Y14; \
	VPUNPCKHWD Y7, Y6, Y15; \
	VPUNPCKLDQ Y10, Y8, Y0; \
	VPUNPCKHDQ Y10, Y8, Y1; \
	VPUNPCKLDQ Y11, Y9, Y2; \
	VPUNPCKHDQ Y11, Y9, Y3; \
	VPUNPCKLDQ Y14, Y12, Y4; \
	VPUNPCKHDQ Y14, Y12, Y5; \
	VPUNPCKLDQ Y15, Y13, Y6; \
	VPUNPCKHDQ Y15, Y13, Y7; \
	VPUNPCKLQDQ Y4, Y0, Y8; \
	VPUNPCKHQDQ Y4, Y0, Y9; \
	VPUNPCKLQDQ Y5, Y1, Y10; \
	VPUNPCKHQDQ Y5, Y1, Y11; \
	VPUNPCKLQDQ Y6, Y2, Y12; \
	VPUNPCKHQDQ Y6, Y2, Y13; \
	VPUNPCKLQDQ Y7, Y3, Y14; \
	VPUNPCKHQDQ Y7, Y3, Y15; \
	LEAQ (DI)(R10*1), DX; \
	BYTE(Y8); BYTE(Y9); BYTE(Y10); BYTE(Y11); BYTE(Y12); BYTE(Y13); BYTE(Y14); BYTE(Y15)

// func planesAVX2(dst *uint64, stride int, words *uint64, groups int)
TEXT ·planesAVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ stride+8(FP), R9
	MOVQ words+16(FP), SI
	MOVQ groups+24(FP), CX
	SHLQ $3, R9
	LEAQ (R9)(R9*2), R10 // 3·stride
	LEAQ (R10)(R9*4), R10 // 7·stride: the highest plane of the lowest byte

group:
	HALF
	ADDQ $256, SI
	ADDQ $4, DI
	HALF
	ADDQ $256, SI
	ADDQ $4, DI
	DECQ CX
	JNZ  group
	VZEROUPPER
	RET

// func andAVX2(z, xa, xb, ya, yb *uint64, blocks int)
TEXT ·andAVX2(SB), NOSPLIT, $0-48
	MOVQ z+0(FP), DI
	MOVQ xa+8(FP), SI
	MOVQ xb+16(FP), DX
	MOVQ ya+24(FP), R8
	MOVQ yb+32(FP), R9
	MOVQ blocks+40(FP), CX
	XORQ AX, AX

four:
	VMOVDQU (R8)(AX*1), Y0
	VPXOR   (R9)(AX*1), Y0, Y1
	VPAND   (SI)(AX*1), Y1, Y1
	VPAND   (DX)(AX*1), Y0, Y0
	VPXOR   Y0, Y1, Y1
	VMOVDQU Y1, (DI)(AX*1)
	ADDQ    $32, AX
	DECQ    CX
	JNZ     four
	VZEROUPPER
	RET

// func chooseAVX2(z, p, xa, xb, ua, ub, va, vb *uint64, blocks int)
TEXT ·chooseAVX2(SB), NOSPLIT, $0-72
	MOVQ z+0(FP), DI
	MOVQ p+8(FP), BX
	MOVQ xa+16(FP), SI
	MOVQ xb+24(FP), DX
	MOVQ ua+32(FP), R8
	MOVQ ub+40(FP), R9
	MOVQ va+48(FP), R10
	MOVQ vb+56(FP), R11
	MOVQ blocks+64(FP), CX
	XORQ AX, AX

words:
	VMOVDQU (R8)(AX*1), Y0
	VMOVDQU (R9)(AX*1), Y1
	VPXOR   (R10)(AX*1), Y0, Y0
	VPXOR   (R11)(AX*1), Y1, Y1
	VPXOR   Y0, Y1, Y1
	VPAND   (SI)(AX*1), Y1, Y1
	VPAND   (DX)(AX*1), Y0, Y0
	VPXOR   (BX)(AX*1), Y1, Y1
	VPXOR   Y0, Y1, Y1
	VMOVDQU Y1, (DI)(AX*1)
	ADDQ    $32, AX
	DECQ    CX
	JNZ     words
	VZEROUPPER
	RET
