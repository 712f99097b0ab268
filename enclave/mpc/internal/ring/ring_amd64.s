#include "textflag.h"

// func dotAVX2(x, y *uint64, blocks int) uint64
//
// Y0, Y1 add up products of low halves, Y2, Y3 those of low and high halves mod 2^32, in both halves of a word.
TEXT ·dotAVX2(SB), NOSPLIT, $0-32
	MOVQ  x+0(FP), SI
	MOVQ  y+8(FP), DI
	MOVQ  blocks+16(FP), CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3

eight:
	VMOVDQU  (SI), Y4
	VMOVDQU  32(SI), Y5
	VPSHUFD  $0xB1, (DI), Y6
	VPSHUFD  $0xB1, 32(DI), Y7
	VPMULUDQ (DI), Y4, Y8
	VPMULUDQ 32(DI), Y5, Y9
	VPMULLD  Y6, Y4, Y6
	VPMULLD  Y7, Y5, Y7
	VPADDQ   Y8, Y0, Y0
	VPADDQ   Y9, Y1, Y1
	VPADDD   Y6, Y2, Y2
	VPADDD   Y7, Y3, Y3
	ADDQ     $64, SI
	ADDQ     $64, DI
	DECQ     CX
	JNZ      eight

	VPADDQ       Y1, Y0, Y0
	VPADDD       Y3, Y2, Y2
	VPSHUFD      $0xB1, Y2, Y3
	VPADDD       Y3, Y2, Y2
	VPSLLQ       $32, Y2, Y2
	VPADDQ       Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ       X1, X0, X0
	VPSHUFD      $0xEE, X0, X1
	VPADDQ       X1, X0, X0
	VMOVQ        X0, AX
	MOVQ         AX, ret+24(FP)
	VZEROUPPER
	RET

// func productAVX2(z, xa, xb, ya, yb, r0, r1 *uint64, blocks int)
TEXT ·productAVX2(SB), NOSPLIT, $0-64
	MOVQ z+0(FP), DI
	MOVQ xa+8(FP), SI
	MOVQ xb+16(FP), DX
	MOVQ ya+24(FP), R8
	MOVQ yb+32(FP), R9
	MOVQ r0+40(FP), R10
	MOVQ r1+48(FP), R11
	MOVQ blocks+56(FP), CX
	XORQ AX, AX

four:
	VMOVDQU  (SI)(AX*1), Y0
	VMOVDQU  (DX)(AX*1), Y1
	VMOVDQU  (R8)(AX*1), Y2
	VPADDQ   (R9)(AX*1), Y2, Y3 // ya + yb
	VPSHUFD  $0xB1, Y2, Y4
	VPSHUFD  $0xB1, Y3, Y5
	VPMULLD  Y5, Y0, Y5
	VPMULLD  Y4, Y1, Y4
	VPMULUDQ Y3, Y0, Y3
	VPMULUDQ Y2, Y1, Y2
	VPADDD   Y4, Y5, Y4
	VPSLLQ   $32, Y4, Y5
	VPADDD   Y4, Y5, Y4 // the high half is the sum of both
	VPSRLQ   $32, Y4, Y4
	VPSLLQ   $32, Y4, Y4
	VPADDQ   Y2, Y3, Y2
	VPADDQ   Y4, Y2, Y2
	VPADDQ   (R10)(AX*1), Y2, Y2
	VPSUBQ   (R11)(AX*1), Y2, Y2
	VMOVDQU  Y2, (DI)(AX*1)
	ADDQ     $32, AX
	DECQ     CX
	JNZ      four
	VZEROUPPER
	RET
